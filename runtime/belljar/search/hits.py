"""What a search's matches look like on their way from the search process, through the broker, into the box.

The body is a JSON object with the numbers of the groups that have names (`names` bytes of it, if there are any); then
for each match pairs of little-endian u64s; then texts:

    start, stop             the match, in characters
    item, its first char    only if a list or dict is searched item by item
    start, stop             each group; `NO_GROUP` twice if it took no part

For each match the text has its first `MATCH_CHARS_MAX` characters, and then as many of each group that is not wholly
within these. So what is in the body is what the ranges of `spans` say.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["GROUPS_MAX", "MATCH_CHARS_MAX", "NO_GROUP", "OF_ITEMS", "spans", "texts"]

# How much of one match's text is given; its span is always given whole.
MATCH_CHARS_MAX: Final = 1000
# A hundred hits with this many groups are 160 KB of numbers.
GROUPS_MAX: Final = 100
NO_GROUP: Final = 2**64 - 1
# The modes that go through a list or dict item by item.
OF_ITEMS: Final = frozenset({"find_items", "count_items"})


_PAIR_BYTES: Final = 16


def spans(body: bytes, mode: str, count: int, groups: int, names: int) -> list[list[int]]:
    """The ranges of characters whose text is in the body of `count` matches."""
    pairs = _pairs(mode, groups)
    listed = struct.iter_unpack("<QQ", body[names : names + _PAIR_BYTES * pairs * count])
    found: list[list[int]] = []
    for number, (first, last) in enumerate(listed):
        kind = number % pairs
        if kind == 0:
            told = min(last, first + MATCH_CHARS_MAX)
            found.append([first, told])
        elif kind >= pairs - groups and first != NO_GROUP and last > told:
            found.append([first, min(last, first + MATCH_CHARS_MAX)])
    return found


def texts(body: bytes, mode: str, count: int, groups: int, names: int) -> memoryview:
    """The texts in the body of `count` matches, one after another: those of `spans`, in that order."""
    return memoryview(body)[names + _PAIR_BYTES * _pairs(mode, groups) * count :]


def _pairs(mode: str, groups: int) -> int:
    """Of one match."""
    return 1 + (mode in OF_ITEMS) + groups
