"""A stored context that is damaged is our fault, whoever asks for what: never a refusal, and never the program's."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from belljar.context import ContextStore, OpenDocument
from belljar.context.document import RECORD_BYTES
from belljar.errors import HostFault
from belljar.search import Findings, Question, Searcher, Tracked
from tests.unit.broker_fakes import drive
from tests.unit.searches import HUGE, LONG, PATIENCE_S, busy, question, refusal, searching, workers

LINES = 3000
SOURCES: dict[str, Any] = {
    "ascii": "a line of text\n" * LINES,
    "wide": "eine Zeile fürs Übel\n" * LINES,
    "list": [f"an item with a number, {number}" for number in range(LINES)],
}


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def gone(path: Path) -> None:
    path.unlink()


def unreadable(path: Path) -> None:
    """Root may read what nobody may; a folder not even root."""
    path.unlink()
    path.mkdir()


def filled(path: Path) -> None:
    """In place, and of the same length; no mark and no digit is like this."""
    with path.open("r+b") as file:
        file.write(b"\xf0" * path.stat().st_size)


def shifted(path: Path) -> None:
    """The marks of others: each is a byte that there is, and yet wrong."""
    marks = path.read_bytes()
    with path.open("r+b") as file:
        file.write(marks[8:] + marks[:8])


def misspelt(path: Path) -> None:
    """One digit of one record is another digit."""
    with path.open("r+b") as file:
        file.seek(7 * RECORD_BYTES + 20)
        file.write(b"9")


async def find(searcher: Searcher, opened: OpenDocument, mode: str = "find") -> None:
    # From the middle on, so that it goes by the marks.
    start, stop = (LINES // 2, LINES) if mode == "lines" else (opened.document.chars // 2, opened.document.chars)
    pattern = "" if mode == "lines" else "i"
    await searcher.ask(question(opened.folder, pattern, mode=mode, start=start, stop=stop), deadline_s=PATIENCE_S)


async def count(searcher: Searcher, opened: OpenDocument) -> None:
    await find(searcher, opened, "count")


async def lines(searcher: Searcher, opened: OpenDocument) -> None:
    await find(searcher, opened, "lines")


async def find_items(searcher: Searcher, opened: OpenDocument) -> None:
    await find(searcher, opened, "find_items")


async def trace(searcher: Searcher, opened: OpenDocument) -> None:
    tracked = [Tracked(0, opened.folder, [(opened.document.chars // 2, opened.document.chars)])]
    await searcher.trace([b"an item with a number, 2999, and what it is"], tracked, deadline_s=PATIENCE_S)


async def repeats(searcher: Searcher, opened: OpenDocument) -> None:
    tracked = [Tracked(0, opened.folder, [(0, opened.document.chars)], [(9, 99), (9, 99)])]
    await searcher.repeats(tracked, deadline_s=PATIENCE_S)


async def read(_: Searcher, opened: OpenDocument) -> None:
    opened.read(opened.document.chars // 2, opened.document.chars)


async def open_directory(_: Searcher, opened: OpenDocument) -> None:
    opened.directory().close()


CASES: list[tuple[str, str, list[Callable[[Path], None]], list[Callable[..., Any]]]] = [
    ("ascii", "text", [cut, emptied], [find, count, lines, trace, repeats, read]),
    ("ascii", "text", [gone, unreadable], [find, count, lines, trace, repeats]),
    ("wide", "index", [cut, emptied, filled, shifted], [find, count, trace, read]),
    ("wide", "index", [gone, unreadable], [find, count, trace]),
    ("ascii", "lines", [cut, emptied, gone, unreadable, filled], [lines]),
    (
        "list",
        "directory",
        [cut, emptied, gone, unreadable, filled, misspelt],
        [find_items, trace, repeats, open_directory],
    ),
    ("ascii", "document.json", [cut, emptied, gone, filled], [find, trace]),
]


@asynccontextmanager
async def stored(folder: Path, source: Any) -> AsyncIterator[tuple[Searcher, OpenDocument]]:
    store, searcher = ContextStore(folder), Searcher()
    with store.open(store.add(source, now_ns=1).sha256) as opened:
        try:
            yield searcher, opened
        finally:
            await searcher.aclose()


@pytest.mark.parametrize(
    ("kind", "file", "how", "asked"),
    [
        pytest.param(kind, file, how, asked, id=f"{file}-{how.__name__}-{asked[-1].__name__}")
        for kind, file, hows, asked in CASES
        for how in hows
    ],
)
def test_a_damaged_file_is_our_fault_and_names_its_document(
    tmp_path: Path, kind: str, file: str, how: Callable[[Path], None], asked: list[Callable[..., Any]]
) -> None:
    async def test() -> None:
        async with stored(tmp_path, SOURCES[kind]) as (searcher, opened):
            how(opened.folder / file)
            for what in asked:
                with pytest.raises(HostFault, match="remove that folder and add the context again") as caught:
                    await what(searcher, opened)
                assert str(opened.folder) in str(caught.value)
                assert "\n" not in str(caught.value)

    drive(test())


# What was cut off while it is searched: the map is there, and what is behind the file's new end kills who touches it.
def test_a_file_that_is_cut_off_under_a_search_is_our_fault(tmp_path: Path) -> None:
    async def test() -> None:
        async with searching(tmp_path, HUGE) as (searcher, about):
            asked = about(LONG, mode="count")
            before = set(workers())
            task = asyncio.create_task(searcher.ask(asked, deadline_s=PATIENCE_S))
            await busy(before)
            os.truncate(asked.folder / "text", 4096)
            with pytest.raises(HostFault, match="damaged"):
                await task

    drive(test())


async def stopped_in_its_work(
    searcher: Searcher, about: Callable[..., Question]
) -> tuple[psutil.Process, asyncio.Task[Findings]]:
    """A process that has a question and cannot answer it, and who waits for that."""
    before = set(workers())
    assert (await searcher.ask(about("b"), deadline_s=PATIENCE_S)).count == 1
    (worker,) = set(workers()) - before
    worker.suspend()
    task = asyncio.create_task(searcher.ask(about("b"), deadline_s=PATIENCE_S))
    while True:
        if searcher._busy:
            return worker, task
        await asyncio.sleep(0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_search_whose_process_was_killed_from_outside_is_asked_once_more(
    tmp_path: Path, number: signal.Signals
) -> None:
    async def test() -> None:
        async with searching(tmp_path, "ab") as (searcher, about):
            worker, task = await stopped_in_its_work(searcher, about)
            worker.send_signal(number)
            worker.resume()
            assert (await task).count == 1
            assert not worker.is_running()

    drive(test())


def test_processes_that_are_killed_again_and_again_are_our_fault(tmp_path: Path) -> None:
    async def test() -> None:
        async with searching(tmp_path, HUGE) as (searcher, about):
            before = set(workers())
            task = asyncio.create_task(searcher.ask(about(LONG, mode="count"), deadline_s=PATIENCE_S))
            first = await busy(before)
            first.kill()
            (await busy(before | {first})).kill()
            with pytest.raises(HostFault, match="SIGKILL"):
                await task

    drive(test())


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_a_process_that_dies_of_what_it_computes_is_a_refusal(tmp_path: Path, number: signal.Signals) -> None:
    async def test() -> None:
        async with searching(tmp_path, "ab") as (searcher, about):
            worker, task = await stopped_in_its_work(searcher, about)
            worker.send_signal(number)
            worker.resume()
            assert (await refusal(task)).code == "search.died"

    drive(test())


def test_a_process_that_cannot_even_begin_is_our_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with searching(tmp_path, "text") as (searcher, about):
            monkeypatch.setattr("belljar.search.searcher._SCRIPT", tmp_path / "no such script")
            with pytest.raises(HostFault, match="exit status 2"):
                await searcher.ask(about("t"), deadline_s=PATIENCE_S)

    drive(test())
