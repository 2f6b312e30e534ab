"""What the integration tests share: the command line as a subprocess, and the checks that hold after every run.

`Jar` is one state folder. Whatever a test did with it, in the end (`Jar.check`): no process that it started is left,
the log verifies and every action in it has its outcome, the books balance and hold nothing.

Finding processes that were left behind takes a trick, because a process that lost its parent can be anywhere:
`adopting_orphans` makes the test's own process the one that orphans are given to, so that all of them stay below it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import psutil

from belljar.audit import Record, records, verify
from belljar.audit.events import HOST_RUNS
from belljar.ledger import Amounts
from belljar.state import State
from tests.journals import OwnLedger
from tests.waiting import PATIENCE_S, until

__all__ = [
    "BELLJAR",
    "PATIENCE_S",
    "RESULT_FIELDS",
    "Jar",
    "Outcome",
    "Running",
    "adopting_orphans",
    "named_files",
    "no_process_left",
    "processes_below",
    "until",
]

BELLJAR = str(Path(sys.executable).with_name("belljar"))

# All that a caller is promised of a result, and nothing besides.
RESULT_FIELDS = {
    *("run", "tenant", "status", "answer", "stdout", "stderr", "truncated", "error", "limit", "wall_s", "cpu_s"),
    *(
        "max_rss_bytes",
        "cells",
        "coverage",
        "turns",
        "reads",
        "read_bytes",
        "queries",
        "usage",
        "cost",
        "cost_nanousd",
        "cost_assumed_nanousd",
        "overage",
        "output_bytes",
        "scripted",
        "layers",
    ),
    "receipt",
    "partial",
}

_NAMED = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PR_SET_CHILD_SUBREAPER = 36

SMALL = """
schema = 1
name = "small"
description = "The standard policy with limits that a test meets soon."
extends = "standard"
"""


def named_files(document: Path) -> dict[str, str]:
    """The blocks of a document that begin with the name of a file, `# my_model.py`: the text of each by its name."""
    return dict(_NAMED.findall(document.read_text("utf-8")))


class Outcome(msgspec.Struct, frozen=True):
    """A command that has ended: its exit code and what it wrote."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def complaint(self) -> str:
        """The first line on stderr, where a person looks first."""
        return self.stderr.partition("\n")[0]

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout; more or less than one is an error."""
        document = json.loads(self.stdout)
        assert document.pop("schema_version") == 1
        assert isinstance(document, dict)
        return document

    @property
    def result(self) -> dict[str, Any]:
        """The document of a run."""
        document = self.document
        assert document.keys() == RESULT_FIELDS
        return document


class Running:
    """A command under way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, *, seconds: float = PATIENCE_S) -> Outcome:
        started = time.monotonic()
        try:
            stdout, stderr = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return Outcome(self.process.returncode, stdout, stderr, time.monotonic() - started)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class Jar:
    """One state folder, with the image already in it, and a folder `work` for the test's own files."""

    def __init__(self, folder: Path, images: Path) -> None:
        self.work = folder / "work"
        self.work.mkdir()
        self.at = folder / "state"
        self.at.mkdir(mode=0o700)
        (self.at / "images").symlink_to(images)
        self.state = State(self.at)
        self.expect_unfinished = False
        self._running: list[Running] = []

    # ------------------------------------------------------------------------------------------------------- commands

    def environ(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """What the command may know of this machine: no key, no home of a person."""
        plain = {"PATH": os.environ["PATH"], "HOME": str(self.work), "LC_ALL": "C.UTF-8"}
        return {**plain, "BELLJAR_HOME": str(self.at), **(extra or {})}

    def start(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, before: tuple[str, ...] = ()
    ) -> Running:
        """Start `belljar ARGUMENTS`, with the words of `before` in front."""
        process = subprocess.Popen(
            [*before, BELLJAR, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environ(env),
            cwd=self.work,
        )
        running = Running(process)
        self._running.append(running)
        return running

    def __call__(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, before: tuple[str, ...] = ()
    ) -> Outcome:
        """Run `belljar ARGUMENTS` to its end."""
        return self.start(*arguments, env=env, before=before).wait()

    def exec(self, code: str, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Outcome:
        """`belljar exec` of a program text, without progress on stderr."""
        return self("exec", self.file("program.py", code), "--quiet", *arguments, env=env)

    def exec_json(self, code: str, *arguments: str | Path) -> tuple[Outcome, dict[str, Any]]:
        """The same with `--json`: the outcome and the run's document."""
        outcome = self.exec(code, "--json", *arguments)
        return outcome, outcome.result

    # ---------------------------------------------------------------------------------------------------------- files

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.work / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def policy(self, text: str) -> Path:
        """A policy file that tightens `standard` by `text`."""
        return self.file("small.toml", f"{SMALL}{text}\n")

    def script(self, *turns: str, rest: str = "") -> str:
        """A `--model` whose root turns are these."""
        entries = "".join(f"[[turn]]\ntext = {json.dumps(turn)}\n" for turn in turns)
        return f"scripted:{self.file('script.toml', f'{rest}{entries}')}"

    # ----------------------------------------------------------------------------------------------------- afterwards

    @property
    def journal(self) -> Path:
        """The file of log and ledger."""
        return self.state.root / "audit.db"

    def records(self, event: str | None = None) -> list[Record]:
        """The log's records, all or those of one event."""
        return [record for record in records(self.journal) if event in (None, record.event)]

    def records_of(self, event: str) -> set[str]:
        """The runs that have a record of this event."""
        return {record.run for record in self.records(event)}

    def open_reservations(self, *, of_boxes: bool = False) -> int:
        """How many there are of calls and reads, or of boxes and their portions."""
        table = "box_reservations" if of_boxes else "reservations"
        with closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True)) as db:
            select = f"SELECT COUNT(*) FROM {table} WHERE state IN ('held', 'dispatched')"
            (count,) = db.execute(select).fetchone()
        return int(count)

    def spent(self, tenant: str = "default", day: str | None = None) -> Amounts:
        """What the books say a tenant used today."""

        async def ask() -> Amounts:
            ledger = OwnLedger(self.journal, owner="test")
            try:
                return await ledger.spent(tenant, day or time.strftime("%Y-%m-%d", time.gmtime()))
            finally:
                await ledger.aclose()

        return asyncio.run(ask())

    def check(self) -> None:
        """What holds after every run, however it ended."""
        for running in self._running:
            running.end()
        no_process_left()
        _reap()
        if self.journal.exists():
            report = verify(self.journal)
            assert report.problems == []
            if not self.expect_unfinished:
                assert report.unfinished == []
                runs = {record.run for record in self.records()} - HOST_RUNS
                ended = {*self.records_of("run.finished"), *self.records_of("run.abandoned")}
                assert ended == runs
        if self.journal.exists():
            assert asyncio.run(_book_errors(self.journal)) == []
            if self.expect_unfinished:
                # What a killed host had reserved is settled by whoever comes next.
                assert self.exec("print('next')").code == 0
            assert self.open_reservations() == self.open_reservations(of_boxes=True) == 0
        assert list(self.state.contexts.glob("*/lent/*")) == [], "what runs brought along went with them"


async def _book_errors(path: Path) -> list[str]:
    ledger = OwnLedger(path, owner="test")
    try:
        return await ledger.check_books()
    finally:
        await ledger.aclose()


# ------------------------------------------------------------------------------------------------------------ processes


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """While it lasts, a process below this one that loses its parent becomes a child of this one."""
    libc = ctypes.CDLL(None)
    assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def no_process_left(*, seconds: float = PATIENCE_S) -> None:
    """Every process below this one ends within `seconds`."""
    deadline = time.monotonic() + seconds
    while left := _alive():
        if time.monotonic() > deadline:
            names = [" ".join(process.cmdline()) or process.name() for process in left]
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            raise AssertionError(f"left behind: {names}")
        time.sleep(0.01)


def processes_below() -> list[psutil.Process]:
    """The processes below this one that still run, whoever their parent is by now."""
    return _alive()


def _alive() -> list[psutil.Process]:
    alive = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive


def _reap() -> None:
    """Take leave of the adopted ones that have ended: nobody else asks for their status."""
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)
