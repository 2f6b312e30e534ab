"""The eighth table: what the log costs, and how fast it can be read. Who takes part, and what comes of it.

Writers work in processes of `quotas`; everything else is a command in a process of its own, and the page a file in a
browser. All that stand beside each other have all rounds in turn, so that a slow minute falls on each of them.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser

from belljar.state import State
from benchmarks.box_table import Absent
from benchmarks.log_commands import BELLJAR, Demo, Machine, Reader
from benchmarks.log_rows import LogPlan, LogTable, cost_row, log_row, share_row
from benchmarks.log_sizes import Sizes, sizes_of
from benchmarks.log_store import write_store
from benchmarks.measure import Samples, measure
from benchmarks.quota_rows import ONE, Shape
from benchmarks.quota_table import Places, Team, Who
from benchmarks.quotas import GROUP
from benchmarks.rows import Row, timed_rows
from tests.browser import PATIENCE_MS, Unavailable, chromium

__all__ = ["measure_logs"]

_CROWD: Final = Shape(f"{GROUP} callers in a process", 1, GROUP)
_OURS: Final = Who("Belljar, SQLite", "record", "SQLite", (ONE, _CROWD), spends=False)
_SHARED: Final = Who(
    f"floor: {GROUP} rows in each transaction of SQLite", "commit of many", "SQLite", (ONE,), spends=False
)
_WRITERS: Final = (
    _OURS,
    Who("floor: one fdatasync of the same bytes", "flush of a record", "SQLite", (ONE,), spends=False),
    Who("floor: one row in SQLite", "commit", "SQLite", (ONE,), spends=False),
    _SHARED,
)
_MEMORY: Final = "log_verify_memory"
_PAGE: Final = "Belljar, the page"
_EMPTY: Final = "floor: an empty page"
_HASHING: Final = """
import hashlib, itertools, sqlite3, sys, zlib
db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
texts = (zlib.decompress(body) for (body,) in db.execute("SELECT body FROM packs ORDER BY block"))
packed = (body for text in texts for body in text.splitlines())
rows = (body for (body,) in db.execute("SELECT body FROM records ORDER BY seq"))
print(sum(len(hashlib.sha256(body).digest()) // 32 for body in itertools.chain(packed, rows)))
"""
_NOTES: Final = (
    "A record is that of a request to a model. The demo is `belljar demo` under the preset `standard`, which keeps "
    "nothing of what was said (`metadata`) or all of it, with what the program reads (`full`); *the run alone* is "
    "without the interpreter's start, the making of the text, and the check of the log. Growth is what log, ledger, "
    "their indexes and the contents take in the file; for a call, the mean of further demos, in which all records find "
    "their pack. *Compressed*: each content by itself, once, by zlib at its usual "
    "level. A model call has the records of its request and its outcome, and its share of all others.",
    "The log that is read was made in bulk, verifies with the ledger beside it, and is signed at each run's end. It is "
    "read by a whole command, from an interpreter's start to its end. Until the page is interactive: from navigation "
    "until its script is done, the next frame is drawn, and an event is taken.",
)


async def measure_logs(plan: LogPlan, scratch: Path, progress: Callable[[str], None]) -> LogTable:
    """Raises BenchmarkError if a command did not do what it is there for."""
    absent: Absent = {}
    machine = Machine(scratch)
    rows = await _writers(plan, scratch, progress)
    demos = Demo(machine, "metadata", plan.tokens), Demo(machine, "full", plan.tokens)
    progress(f"the demo of {plan.tokens:,} tokens")
    samples = await measure(demos, plan.rounds, lambda demo: demo.round(), progress)
    grown = await demos[0].grown()
    sizes = [await asyncio.to_thread(sizes_of, demo.log, demo.run, machine.keys) for demo in demos]
    rows += growth_rows(plan, demos[0], grown, sizes[0])
    rows += demo_rows(plan, samples, sizes[1])
    rows += await _readers(plan, machine, progress)
    rows += await _page(plan, machine, demos[1], absent, progress)
    return LogTable(plan, rows, absent, _NOTES)


# -------------------------------------------------------------------------------------------------------------- writing


async def _writers(plan: LogPlan, scratch: Path, progress: Callable[[str], None]) -> list[Row]:
    progress("durable records")
    places = Places(scratch, None)
    async with AsyncExitStack() as stack:
        teams = [await Team.open(stack, who, places, scratch) for who in _WRITERS]
        samples = await measure(teams, plan.rounds, lambda team: team.round(plan.seconds), progress)
    return writer_rows(plan, samples)


def writer_rows(plan: LogPlan, samples: Mapping[str, Samples]) -> list[Row]:
    """A single writer's times, and what many writers get done in a second."""
    single = {
        who.title: {"log_append": [taken_us / 1e6 for taken_us in samples[who.title][ONE.title]]}
        for who in _WRITERS
        if who is not _SHARED
    }
    shared = [GROUP * rate for rate in samples[_SHARED.title][f"{ONE.title} rate"]]
    return [
        *timed_rows(single, {_OURS.title: plan.goals}),
        log_row(
            "log_rate", _OURS.title, "records/s", samples[_OURS.title][f"{_CROWD.title} rate"], plan.goals["log_rate"]
        ),
        log_row("log_rate", _SHARED.title, "records/s", shared),
    ]


# ------------------------------------------------------------------------------------------------------------- the demo


def growth_rows(plan: LogPlan, demo: Demo, grown: float, bare: Sizes) -> list[Row]:
    """What one more run of the demo makes the file grow by, in the mean, for each of its calls and records."""
    return [
        log_row("log_size_action", demo.title, "bytes", [grown / demo.calls], plan.goals.get("log_size_action")),
        log_row("log_size_record", demo.title, "bytes", [grown / bare.records]),
    ]


def demo_rows(plan: LogPlan, samples: Mapping[str, Samples], kept: Sizes) -> list[Row]:
    """`samples` are of the demo that keeps nothing, then of the one that keeps all; the sizes are of a run of that."""
    goals = plan.goals
    (none, little), (whole, much) = samples.items()
    rows = timed_rows(
        {who: {name: taken[name] for name in ("log_demo", "log_demo_run")} for who, taken in samples.items()}, {}
    )
    rows += [
        cost_row(f"{name}_cost", whole, much[name], little[name], goals.get(f"{name}_cost"))
        for name in ("log_demo", "log_demo_run")
    ]
    grown = statistics.median(much["log_size_file"])
    return [
        *rows,
        log_row("log_size_file", none, "MB", little["log_size_file"]),
        log_row("log_size_file", whole, "MB", much["log_size_file"]),
        log_row("log_size_file", "the contents as they are, each once", "MB", [kept.contents / 1e6]),
        log_row("log_size_file", "floor: the contents compressed", "MB", [kept.compressed / 1e6]),
        log_row("log_size_file", kept.peer, "MB", [kept.lines / 1e6]),
        share_row("log_size_ratio", whole, grown, kept.compressed / 1e6, goals.get("log_size_ratio")),
    ]


# -------------------------------------------------------------------------------------------------------------- reading


async def _readers(plan: LogPlan, machine: Machine, progress: Callable[[str], None]) -> list[Row]:
    state = State(machine.scratch / "records")
    progress(f"making a log of {plan.records:,} records")
    runs = await write_store(state, machine.keys, records=plan.records, runs=plan.runs)
    run, at = runs[len(runs) // 2], ("--state", state.root)
    assert isinstance(state.journal, Path)
    hashing = (sys.executable, "-I", "-S", "-c", _HASHING, state.journal)
    readers = [
        Reader(machine, "belljar audit verify", "log_verify", (BELLJAR, "audit", "verify", *at), "head", memory=True),
        Reader(machine, "floor: hashing alone", "log_verify", hashing, "", memory=True),
        Reader(machine, "belljar audit show", "log_show", (BELLJAR, "audit", "show", run, *at), run, memory=False),
        Reader(machine, "floor: python -c pass", "log_show", (sys.executable, "-c", "pass"), "", memory=False),
    ]
    samples = await measure(readers, plan.rounds, lambda reader: reader.round(), progress)
    return reader_rows(plan, samples)


def reader_rows(plan: LogPlan, samples: Mapping[str, Samples]) -> list[Row]:
    """Times in the order of the measures, then memory. A floor has no goals."""
    goals = {who: {} if who.startswith("floor") else plan.goals for who in samples}
    times = {who: {name: values for name, values in taken.items() if name != _MEMORY} for who, taken in samples.items()}
    memory = [
        log_row(_MEMORY, who, "MB", taken[_MEMORY], goals[who].get(_MEMORY))
        for who, taken in samples.items()
        if _MEMORY in taken
    ]
    return [*timed_rows(times, goals), *memory]


# ------------------------------------------------------------------------------------------------------------- the page


async def _page(
    plan: LogPlan, machine: Machine, demo: Demo, absent: Absent, progress: Callable[[str], None]
) -> list[Row]:
    progress("the page of the demo")
    page, empty = machine.scratch / "page.html", machine.scratch / "empty.html"
    await machine.run(BELLJAR, "audit", "export", demo.run, "--format", "html", "-o", page, "--state", demo.state.root)
    empty.write_text("<!doctype html><html data-ready><title>nothing</title></html>", encoding="utf-8")
    goals = plan.goals
    rows = [log_row("log_page_size", _PAGE, "MB", [page.stat().st_size / 1e6], goals.get("log_page_size"))]
    try:
        # Its own thread: Playwright's plain interface refuses one in which an event loop runs.
        samples = await asyncio.to_thread(_open_all, {_PAGE: page, _EMPTY: empty}, plan.rounds)
    except Unavailable as error:
        absent["a browser"] = str(error)
        return rows
    return [*rows, *timed_rows(samples, {_PAGE: goals})]


def _open_all(pages: Mapping[str, Path], rounds: int) -> dict[str, Samples]:
    samples: dict[str, Samples] = {title: {"log_page_open": []} for title in pages}
    with chromium() as browser:
        for number in range(rounds + 1):
            for title, page in pages.items():
                taken = _open(browser, page)
                if number:  # the first warms up
                    samples[title]["log_page_open"].append(taken)
    return samples


def _open(browser: Browser, file: Path) -> float:
    """Seconds until a reader can use it."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        started = time.perf_counter()
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        return time.perf_counter() - started
    finally:
        context.close()
