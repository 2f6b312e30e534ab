"""The checks that every backend must pass, shipped so that authors of other backends can run them.

A check is a few cells of guest code and the expected outcome of the last one. The checks are in `checks.toml` beside
this file, the limits that they were written for in `policy.toml`. Those with a `layer` run only where the backend
reports that layer, and test from inside whether it is really there: a backend is not tested for what it does not claim.
`check` runs all of them in one language and returns what did not hold; an empty list means that the backend conforms.
To test your own backend, register it and call `belljar.testing.check_backend`, which opens the runtimes for that, in
both languages.

Where a layer makes a box end differently, the check says what is right there, and why (`Instead`); such differences are
few, and SECURITY.md lists them by name.

The context of every check is the text `CONTEXT`. A check with `differs` runs in two boxes and must print different
texts; this finds boxes that share their random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from belljar.errors import PolicyDenied
from belljar.identity import LANGUAGES, Language

__all__ = ["CONTEXT", "POLICY", "Check", "Finding", "Instead", "Sessions", "check", "checks", "run_check"]

POLICY = Path(__file__).with_name("policy.toml")
CONTEXT = "".join(f"line {number}: the grass is gr\N{LATIN SMALL LETTER E WITH DIAERESIS}n\n" for number in range(2000))

_SHOWN_CHARS = 400


class Instead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is right where a box reports `layer`. It replaces the check's own `expect`, `prints`, `shows` and `limit`.

    Attributes:
        layer: where it applies.
        difference: its name in SECURITY.md.
        why: one sentence.
    """

    layer: str
    difference: str
    why: str
    expect: Sequence[str] = ("ok",)
    prints: str | None = None
    shows: str | None = None
    limit: str | None = None


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One check.

    Attributes:
        name: what holds, as a sentence.
        cells: guest programs, run in one box one after the other.
        expect: the statuses that the last cell may have.
        languages: where it applies.
        layer: run it only where this layer is reported.
        prints: exactly the last cell's standard output; `shows` is a part of it or of its error.
        answer: the final answer.
        limit: the code of the limit that was reached.
        truncated: whether output was cut.
        differs: run it in two boxes, which must not print the same.
        instead: what is right where a layer makes a difference; the first that applies.
    """

    name: str
    cells: Sequence[str]
    expect: Sequence[str] = ("ok",)
    languages: Sequence[Language] = LANGUAGES
    layer: str | None = None
    prints: str | None = None
    shows: str | None = None
    answer: Any = None
    limit: str | None = None
    truncated: bool = False
    differs: bool = False
    instead: Sequence[Instead] = ()

    def under(self, layers: Collection[str]) -> Check:
        """The same for a box that has these layers."""
        for one in self.instead:
            if one.layer in layers:
                return msgspec.structs.replace(
                    self, expect=one.expect, prints=one.prints, shows=one.shows, limit=one.limit, instead=()
                )
        return self


class Finding(msgspec.Struct, frozen=True):
    """A check that did not hold, and how."""

    check: str
    problem: str


class _Limit(Protocol):
    @property
    def code(self) -> str: ...


class _Cell(Protocol):
    @property
    def status(self) -> str: ...
    @property
    def stdout(self) -> str: ...
    @property
    def truncated(self) -> bool: ...
    @property
    def error(self) -> object: ...
    @property
    def limit(self) -> _Limit | None: ...
    @property
    def answer(self) -> Any: ...


class _Result(Protocol):
    @property
    def layers(self) -> Collection[str]: ...


class _Session(Protocol):
    async def execute(self, code: str) -> _Cell: ...
    @property
    def result(self) -> _Result | None: ...


class Sessions(Protocol):
    """What the checks need of a runtime; `belljar.Runtime` is one."""

    @property
    def language(self) -> str: ...

    def session(self, *, context: str) -> AbstractAsyncContextManager[_Session]: ...


def checks() -> list[Check]:
    """All checks, in the file's order."""
    text = Path(__file__).with_name("checks.toml").read_bytes()
    return msgspec.toml.decode(text, type=dict[str, list[Check]])["check"]


async def check(runtime: Sessions, *, on_check: Callable[[str], None] | None = None) -> list[Finding]:
    """Run every check that applies to the runtime's language and layers; return what did not hold.

    Raises:
        Refusal, HostFault: a box could not be built.
    """
    findings: list[Finding] = []
    layers = await _layers(runtime)
    for one in checks():
        if runtime.language in one.languages and (one.layer is None or one.layer in layers):
            if on_check is not None:
                on_check(one.name)
            findings += await run_check(runtime, one.under(layers))
    return findings


async def run_check(runtime: Sessions, one: Check) -> list[Finding]:
    """Run one check as it stands, whatever language and layers it is for; see `Check.under`."""
    cell = await _last_cell(runtime, one)
    problems = _problems(one, cell)
    if one.differs and not problems and (await _last_cell(runtime, one)).stdout == cell.stdout:
        problems.append(f"two boxes printed the same: {cell.stdout[:_SHOWN_CHARS]!r}")
    return [Finding(one.name, problem) for problem in problems]


async def _layers(runtime: Sessions) -> Collection[str]:
    async with runtime.session(context=CONTEXT) as session:
        await session.execute("x = 1")
    assert session.result is not None
    return session.result.layers


async def _last_cell(runtime: Sessions, one: Check) -> _Cell:
    """The last cell, or the one that ended the box early."""
    async with runtime.session(context=CONTEXT) as session:
        cell = await session.execute(one.cells[0])
        for source in one.cells[1:]:
            try:
                cell = await session.execute(source)
            except PolicyDenied:  # the session has ended
                break
        return cell


def _problems(one: Check, cell: _Cell) -> list[str]:
    problems = []
    if cell.status not in one.expect:
        problems.append(f"the status is {cell.status}, not {' or '.join(one.expect)}: {_shown(cell)}")
    if one.prints is not None and cell.stdout != one.prints:
        problems.append(f"it did not print {one.prints!r}: {_shown(cell)}")
    if one.shows is not None and one.shows not in f"{cell.stdout}\n{cell.error}":
        problems.append(f"it did not show {one.shows!r}: {_shown(cell)}")
    if cell.answer != one.answer:
        problems.append(f"the answer is {repr(cell.answer)[:_SHOWN_CHARS]}, not {one.answer!r}")
    met = cell.limit.code if cell.limit is not None else None
    if one.limit is not None and met != one.limit:
        problems.append(f"the limit reached is {met}, not {one.limit}")
    if cell.truncated != one.truncated:
        problems.append(f"truncated is {cell.truncated}")
    return problems


def _shown(cell: _Cell) -> str:
    return f"{cell.stdout[:_SHOWN_CHARS]!r} {str(cell.error)[:_SHOWN_CHARS]}"
