"""How a stranger's text stands on a page: as text, with what cannot be seen made visible, and cut where it is long.

Everything in a trajectory may have been written by an attacker. A page is safe if all of it goes through `visible` (or,
in an attribute, `plain`): nothing is markup then, and no character steers what stands beside it (`belljar.glyphs`).
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable

from markupsafe import Markup, escape

from belljar.glyphs import glyphs, has_glyph

__all__ = ["cut_at", "fair_limit", "highlighted", "plain", "visible"]

_PERHAPS = re.compile(r"[^ -~\n\t]+")
_HIGHLIGHTED_CHARS_MAX = 20_000
# Each part ends where it cannot go on, so this takes linear time; a string that is not closed ends with its line.
_WORDS = re.compile(
    r"""(?P<comment>\#[^\n]*)
    |(?P<string>(?:\b[rbfuRBFU]{1,2})?(?:\"\"\"[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*\"\"\"
        |'''[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*'''
        |"[^"\\\n]*(?:\\.[^"\\\n]*)*"?|'[^'\\\n]*(?:\\.[^'\\\n]*)*'?))
    |(?P<number>\b\d[\w.]*)
    |(?P<keyword>\b(?:"""
    + "|".join(keyword.kwlist)
    + r"""|match|case)\b)
    |(?P<own>\b(?:context|contexts|llm_query|llm_query_batched|rlm_query|FINAL|FINAL_VAR)\b)
    |\w+""",
    re.VERBOSE | re.DOTALL,
)


def visible(text: str) -> Markup:
    """The text as HTML; what has no glyph is in `<b>`, which nothing else is."""
    return Markup(_PERHAPS.sub(_marked, str(escape(text))))  # noqa: S704 -- escaped, but for our own `<b>`


def highlighted(code: str) -> Markup:
    """As `visible`, of a program: what its words are is in the class of a `<span>`, at the beginning of a long one."""
    parts, at = [], 0
    for found in _WORDS.finditer(code, 0, _HIGHLIGHTED_CHARS_MAX):
        kind = found.lastgroup
        if kind is not None:
            parts += [visible(code[at : found.start()]), _span(kind, visible(found[0]))]
            at = found.end()
    return Markup("").join([*parts, visible(code[at:])])


def _span(kind: str, text: Markup) -> Markup:
    return Markup("<span class=w-{}>{}</span>").format(kind, text)


def plain(text: str) -> Markup:
    """The text as HTML without any tag, for an attribute."""
    return escape(glyphs(text))


def _marked(found: re.Match[str]) -> str:
    """Neighbours share a `<b>`, so that a text of nothing else does not become many times as long."""
    return "".join(map(_marked_char, found[0])).replace("</b><b>", "")


def _marked_char(char: str) -> str:
    return char if has_glyph(char) else f"<b>{glyphs(char)}</b>"


def cut_at(text: str, chars_max: int) -> tuple[str, int, str]:
    """Its beginning, how many characters are left out behind it, and its end."""
    left_out = len(text) - chars_max
    if left_out <= 0:
        return text, 0, ""
    head = chars_max * 3 // 4
    return text[:head], left_out, text[head + left_out :]


def fair_limit(lengths: Iterable[int], total: int) -> int:
    """The longest that each may be, so that all together are at most `total`: what is short stays whole."""
    waiting = sorted(lengths)
    for number, length in enumerate(waiting):
        if length * (len(waiting) - number) > total:
            return total // (len(waiting) - number)
        total -= length
    return waiting[-1] if waiting else 0
