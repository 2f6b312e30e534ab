"""How a text that is not ours stands in a message, on a terminal or on a page: in characters that have a glyph.

Bidirectional overrides, control characters, separators, lone surrogates and all else that has none are shown as Python
would write them, `\\u202e`. So none of them steers what stands beside it, and none carries a text that a model reads
and a person does not see: variation selectors and fillers are letters or marks to Python, and have no glyph all the
same. Where one line is enough, and nobody needs to know what stood there, they are blanks (`blanked`).
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["blanked", "glyphs", "has_glyph"]

_PERHAPS: Final = re.compile(r"[^ -~]+")
# What Unicode calls default ignorable, and Python printable; and Braille's blank.
_UNSEEN: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def glyphs(text: str, *, but: str = "") -> str:
    """The text on one line, of characters that have a glyph; those of `but` stay as they are, too."""
    return _PERHAPS.sub(lambda found: "".join(_glyph(char, but) for char in found[0]), text)


def blanked(text: str) -> str:
    """The text on one line, with a blank for each character that has no glyph."""
    return _PERHAPS.sub(lambda found: "".join(char if has_glyph(char) else " " for char in found[0]), text)


def has_glyph(char: str) -> bool:
    """Whether somebody who looks sees this character, or a blank that is one."""
    return char.isprintable() and _UNSEEN.match(char) is None


def _glyph(char: str, but: str) -> str:
    return char if has_glyph(char) or char in but else char.encode("unicode_escape").decode()
