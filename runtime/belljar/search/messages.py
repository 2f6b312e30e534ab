"""What the host asks the search process, and what it answers.

A question is one JSON object on a line, then as many bytes as it says in `body`. An answer is a u32 length and a JSON
object, then a u32 length and its bytes; the integers are big-endian. The answer's type says who is at fault, so nobody
has to guess it from a text:

    Answered     what was asked for
    Denied       it asks for what we do not do, or for more than is allowed: a Refusal, which the program is told
    Faulted      the stored document is damaged, or we have a defect: a HostFault, which ends the run

If there is no answer because the process died, the way it died decides (see `searcher`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Answer", "Answered", "Asked", "Denied", "Faulted", "LookUp", "Mode", "Searched", "TrackedText"]

Mode = Literal["find", "count", "lines", "find_items", "count_items"]


class Searched(msgspec.Struct, frozen=True, kw_only=True, tag="search"):
    """Look for `pattern` in the document in `folder`; the fields are those of `searcher.Question`.

    After `slice_s` seconds it is answered with the matches so far, and where to go on.
    """

    folder: str
    mode: Mode
    pattern: str
    start: int
    stop: int
    limit: int
    bytes_max: int
    slice_s: float
    first: int = 0
    body: int = 0


class TrackedText(msgspec.Struct, frozen=True):
    """A document, and how many ranges of it are in the body: those read, then those found so far."""

    doc: int
    folder: str
    ranges: int
    found: int


class LookUp(msgspec.Struct, frozen=True, kw_only=True, tag="look_up"):
    """Which parts of the documents are in the prompts (`trace`), or what else counts as shown (`repeats`).

    The body has the ranges, pairs of little-endian u64s, and then the prompts, of these lengths.
    """

    mode: Literal["trace", "repeats"]
    texts: list[TrackedText]
    prompts: list[int] = []
    seconds: float = 0.0
    body: int


Asked = Searched | LookUp


class Answered(msgspec.Struct, frozen=True, tag="answered"):
    """`count` matches (for lines: characters from `start`); `next`, where to go on.

    A look-up says whether it is `complete`. `hits` explains `groups` and `names`.
    """

    start: int = 0
    count: int = 0
    next: int | None = None
    groups: int = 0
    names: int = 0
    complete: bool = False


class Denied(msgspec.Struct, frozen=True, tag="denied"):
    code: str
    message: str


class Faulted(msgspec.Struct, frozen=True, tag="faulted"):
    message: str


Answer = Answered | Denied | Faulted
