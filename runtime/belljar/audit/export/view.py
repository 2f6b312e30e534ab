"""What stands on the page of a run, ready to be shown: the template decides nothing but how it looks.

Texts are here whole or cut, numbers are written for people, and every list has a bound. Nothing here is HTML.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "Badge",
    "Bar",
    "CellView",
    "ChildLink",
    "Fact",
    "Lane",
    "Page",
    "QueryView",
    "RefusalView",
    "Row",
    "RunView",
    "Segment",
    "Strip",
    "Text",
    "Timeline",
    "Tone",
    "TreeView",
]

# How something ended: well, badly, refused by a rule, or not known.
Tone = Literal["good", "bad", "warn", "none"]
# One query among those that a page lists only on demand: name, model, how it ended, the tone, tokens, when, how long,
# what it cost, and why it failed.
Row = tuple[str, str, str, str, str, str, str, str, str]


class _View(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the page."""


class Text(_View, frozen=True):
    """A text of the run. If it is `kept`, `left_out` characters are missing between `head` and `tail`.

    Otherwise `gone` says why it is not here: never kept, erased, or missing.
    """

    label: str
    size: str
    digest: str = ""
    kept: bool = False
    head: str = ""
    left_out: int = 0
    tail: str = ""
    gone: str = ""


class Fact(_View, frozen=True):
    label: str
    value: str
    tone: Tone = "none"


class Badge(_View, frozen=True):
    """What is known of the log that the page is made from."""

    tone: Tone
    word: str
    detail: str


class RefusalView(_View, frozen=True):
    """Something that the host said no to. `anchor` is where in the page it happened."""

    anchor: str
    where: str
    at: str
    asked: str
    code: str
    numbers: str


class QueryView(_View, frozen=True):
    """One attempt to ask a model or a tool."""

    anchor: str
    name: str
    kind: str
    model: str
    status: str
    tone: Tone
    tokens: str
    at: str
    took: str
    cost: str
    why: str = ""
    facts: list[Fact] = []
    texts: list[Text] = []


class ChildLink(_View, frozen=True):
    anchor: str
    run: str
    status: str
    tone: Tone
    cost: str
    took: str


class CellView(_View, frozen=True):
    """A cell with all that it did; or, with number 0, what the run did outside of its cells."""

    anchor: str
    number: int
    title: str
    status: str
    tone: Tone
    at: str
    took: str
    cost: str
    counts: list[str]
    texts: list[Text]
    reads: list[str]
    turns: list[QueryView]
    queries: list[QueryView]
    more: list[Row]
    children: list[ChildLink]
    refusals: list[RefusalView]
    notes: list[Fact]


class Segment(_View, frozen=True):
    """Columns `[start, stop)` of a strip that are alike. The levels: 0 nothing, 1 in parts, 2 all of it."""

    start: int
    stop: int
    read: int
    shown: int
    title: str


class Strip(_View, frozen=True):
    """One context of the run, from its first character to its last, in `columns` columns."""

    name: str
    kind: str
    chars: str
    digest: str
    columns: int
    read_share: str
    shown_share: str
    segments: list[Segment]
    never_read: list[str]
    never_read_count: int
    never_shown: list[str]
    never_shown_count: int


class Bar(_View, frozen=True):
    """From `start` to `stop`, in thousandths of the whole time."""

    start: int
    stop: int
    tone: Tone
    title: str


class Lane(_View, frozen=True):
    """One run in time, in an SVG of 1000 by 100.

    Its cells are `bars`; `marks` is where the log says that they read or searched, `reads` times; and calls of models
    that were under way, `most` at once, are below `path`.
    """

    run: str
    anchor: str
    depth: int
    bars: list[Bar]
    reads: int
    marks: str
    path: str
    most: int


class Timeline(_View, frozen=True):
    lanes: list[Lane]
    ticks: list[tuple[int, str]]
    left_out: int


class TreeView(_View, frozen=True):
    """One run in the tree, with what it and the runs below it cost."""

    anchor: str
    run: str
    name: str
    depth: int
    status: str
    tone: Tone
    cost: str
    own_cost: str
    calls: str
    took: str


class RunView(_View, frozen=True):
    anchor: str
    run: str
    depth: int
    status: str
    tone: Tone
    facts: list[Fact]
    texts: list[Text]
    cells: list[CellView]
    cells_left_out: int


class Page(_View, frozen=True):
    """All of it. `exported` is the time of the export, `version` what made it."""

    run: str
    tenant: str
    status: str
    tone: Tone
    verdict: str
    badge: Badge
    stats: list[Fact]
    facts: list[Fact]
    texts: list[Text]
    strips: list[Strip]
    timeline: Timeline
    tree: list[TreeView]
    tree_left_out: int
    runs: list[RunView]
    refusals: list[RefusalView]
    refusals_left_out: int
    quotas: list[Fact]
    exported: str
    version: str
    cut: bool
