"""How a text that is not ours stands in a message, on a terminal or on a page: in characters that have a glyph.

Bidirectional overrides, control characters, separators, lone surrogates and all else that has none are shown as Python
would write them, `\\u202e`. So none of them steers what stands beside it. Where one line is enough, and nobody needs to
know what stood there, they are blanks (`blanked`).
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["blanked", "glyphs"]

_PERHAPS: Final = re.compile(r"[^ -~]+")


def glyphs(text: str, *, but: str = "") -> str:
    """The text on one line, of characters that have a glyph; those of `but` stay as they are, too."""
    return _PERHAPS.sub(lambda found: "".join(_glyph(char, but) for char in found[0]), text)


def blanked(text: str) -> str:
    """The text on one line, with a blank for each character that has no glyph."""
    return _PERHAPS.sub(lambda found: "".join(char if char.isprintable() else " " for char in found[0]), text)


def _glyph(char: str, but: str) -> str:
    return char if char.isprintable() or char in but else repr(char)[1:-1]
