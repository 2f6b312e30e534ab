"""Searching where the text is: what the other side of the wall does for a paged text, and what comes back.

The agent gives each `PagedText` a `Pushdown`; `PagedText.search`, `count_matches` and `lines(a, b)` use it.
"""

from __future__ import annotations

import operator
import re
import types
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple, Protocol

from guest.exact import exact, exact_text

__all__ = ["HIT_CHARS", "Group", "Hit", "Hits", "Pushdown", "found_by", "refuse_flags", "source_of", "wanted_of"]

HIT_CHARS = 1000
"""The text of a hit is only an excerpt; its position gives access to all of it."""
_SHOWN_CHARS = 80
_GROUPS_SHOWN_CHARS = 200


Group = tuple[int, int, str]
"""The position of a group of a match, and its text, cut as the match is."""


class _Match(NamedTuple):
    start: int
    stop: int
    text: str


class Hit(_Match):
    """One match: its position in the text, and its text, cut to 1000 characters.

    `start, stop, text = hit` unpacks it; groups work as in a match of `re`: hit[1], hit["name"], hit.group(1, 2),
    hit.groups(), hit.groupdict(), hit.span(1). In a list or dict, `key` is the number or the key of its item, and the
    position is that within the item.
    """

    key: Any = None
    _groups: tuple[Group | None, ...] = ()
    _names: Mapping[str, int] = types.MappingProxyType({})

    @classmethod
    def of(
        cls,
        whole: Group,
        groups: tuple[Group | None, ...] = (),
        names: Mapping[str, int] | None = None,
        key: Any = None,
    ) -> Hit:
        made = cls(*whole)
        own = made.__dict__
        if groups:
            own["_groups"] = groups
        if names:
            own["_names"] = names
        if key is not None:
            own["key"] = key
        return made

    def moved(self, by: int, key: Any = None) -> Hit:
        """The same hit, moved by so many characters."""
        groups = tuple(one and (one[0] + by, one[1] + by, one[2]) for one in self._groups)
        return Hit.of((self.start + by, self.stop + by, self.text), groups, self._names, key)

    def _group(self, which: Any) -> Group | None:
        which = exact(which)
        number = self._names.get(which) if type(which) is str else which
        if type(number) is not int or not 0 <= number <= len(self._groups):
            count = len(self._groups)
            raise IndexError(f"no such group: the pattern has {count}; .start, .stop and .text are the match itself")
        return self._groups[number - 1] if number else (*self,)

    def group(self, *which: Any) -> Any:
        """The text of one group, by number or by name, or a tuple of several; with no argument, that of the match."""
        found = [one and one[2] for one in map(self._group, which or (0,))]
        return found[0] if len(found) == 1 else tuple(found)

    def __getitem__(self, which: Any) -> Any:
        return tuple(self)[which] if type(which) is slice else self.group(which)

    def groups(self, default: Any = None) -> tuple[Any, ...]:
        """The texts of all groups; `default` for those that took no part."""
        return tuple(default if one is None else one[2] for one in self._groups)

    def groupdict(self, default: Any = None) -> dict[str, Any]:
        """The texts of the groups that have a name."""
        texts = self.groups(default)
        return {name: texts[number - 1] for name, number in self._names.items()}

    def span(self, which: Any = 0) -> tuple[int, int]:
        """The range of the match, or of a group; (-1, -1) for one that took no part."""
        found = self._group(which)
        return (-1, -1) if found is None else found[:2]

    def __repr__(self) -> str:
        # A hundred of them may be printed at once.
        text = self.text if len(self.text) <= _SHOWN_CHARS else f"{self.text[:_SHOWN_CHARS]}..."
        key = "" if self.key is None else f"key={self.key!r}, "
        groups = f", groups={self.groups()!r:.{_GROUPS_SHOWN_CHARS}}" if self._groups else ""
        return f"Hit({key}start={self.start}, stop={self.stop}, text={text!r}{groups})"


class Hits(list[Hit]):
    """The matches of one `search`. `next` is where to continue (`start=hits.next`), None when there is nothing more."""

    next: Any = None


def found_by(pattern: re.Pattern[str], matches: Iterable[re.Match[str]], wanted: int, end: int) -> Hits:
    """The first `wanted` of what `re` found in a text, where `end` is the last position to search."""
    hits, names = Hits(), dict(pattern.groupindex)
    for match in islice(matches, wanted):
        spans = [match.span(number) for number in range(1, pattern.groups + 1)]
        texts = match.groups()
        groups = tuple(
            None if text is None else (*span, text[:HIT_CHARS]) for span, text in zip(spans, texts, strict=True)
        )
        hits.append(Hit.of((*match.span(), match.group()[:HIT_CHARS]), groups, names))
    if hits and len(hits) == wanted:
        after = max(hits[-1].stop, hits[-1].start + 1)
        hits.next = after if after <= end else None
    return hits


class Pushdown(Protocol):
    """What the other side of the wall does over the whole document, with RE2: linear time, no back-references.

    Each method may stop early (its time is up, its reply is full) and then says where to continue, which is after the
    last match, and at least one after its own start; the caller continues there. Positions are characters of the
    document; the text that the pattern sees is [first, stop), as with `pos` and `endpos` of `re`. `doc` is the
    document's number in messages.
    """

    doc: int

    def find(self, pattern: str, start: int, stop: int, limit: int, *, first: int = 0) -> tuple[list[Hit], int | None]:
        """At most `limit` matches in order; where to continue."""

    def count(self, pattern: str, start: int, stop: int, *, first: int = 0) -> tuple[int, int | None]:
        """The number of matches that do not overlap; where to continue, or None."""

    def find_items(
        self, pattern: str, start: int, stop: int, limit: int
    ) -> tuple[list[tuple[Hit, int, int]], int | None]:
        """As `find`, each item of a list or dict a separate text; each hit with its item and its first character."""

    def count_items(self, pattern: str, start: int, stop: int) -> tuple[int, int | None]:
        """As `count`, each item a separate text."""

    def lines(self, first: int, last: int) -> tuple[str, int | None]:
        """The text of lines [first, last), with their ends, counted from 0; the line to continue with, or None."""


def wanted_of(limit: Any) -> int:
    """The number of hits wanted. Raises ValueError if it is below 1."""
    wanted: int = exact(operator.index(limit))
    if wanted < 1:
        raise ValueError("limit must be at least 1")
    return wanted


def refuse_flags(start: Any) -> None:
    """`re` takes flags where `search` has the start."""
    if isinstance(start, re.RegexFlag):
        raise TypeError("flags go into the pattern: write '(?i)...' for re.IGNORECASE, '(?m)...' for re.MULTILINE")


def source_of(pattern: Any) -> str:
    """A pattern's text, with the flags of a compiled one written into it. Raises TypeError or ValueError for others."""
    source, flags = exact_text(pattern), 0
    if type(source) is not str:
        source, flags = exact_text(getattr(pattern, "pattern", None)), exact(getattr(pattern, "flags", 0))
    if type(source) is not str or type(flags) is not int:
        raise TypeError(f"search() needs a pattern as a str, not {type(pattern).__name__}")
    if flags & re.VERBOSE:
        raise ValueError("search() does not support VERBOSE patterns: write it without comments and spaces")
    known = ((re.IGNORECASE, "i"), (re.MULTILINE, "m"), (re.DOTALL, "s"))
    letters = "".join(letter for flag, letter in known if flags & flag)
    return f"(?{letters}){source}" if letters else source
