"""What the tests of searching share: questions, and the live processes that answer them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from belljar.context import ContextStore
from belljar.errors import PolicyDenied
from belljar.search import Question, Searcher
from tests.waiting import PATIENCE_S

__all__ = ["HUGE", "LONG", "PATIENCE_S", "SLOW", "busy", "question", "refusal", "searching", "workers"]

HUGE = "abcdefgh" * (8 << 20)
# A pattern that has to look at every byte of it, and finds nothing; and one with so many matches that it takes long.
SLOW = "[a-q][^a]{3}z"
LONG = "(a|c|e|g)(b|d)"


def question(folder: Path, pattern: str, **fields: Any) -> Question:
    given_fields = {"mode": "find", "start": 0, "stop": 1 << 40, "limit": 1000, "bytes_max": 4 << 20, **fields}
    return Question(folder=folder, pattern=pattern, **given_fields)


@contextlib.asynccontextmanager
async def searching(folder: Path, text: str) -> AsyncIterator[tuple[Searcher, Callable[..., Question]]]:
    """A searcher, and questions about one text. In the end no process of it is left."""
    store = ContextStore(folder)
    before = set(workers())
    with store.open(store.add(text, now_ns=1).sha256) as opened:
        searcher = Searcher(slice_s=60)
        try:
            yield searcher, lambda pattern, **fields: question(opened.folder, pattern, **fields)
        finally:
            await searcher.aclose()
    assert set(workers()) == before


def workers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE and any("worker.py" in word for word in child.cmdline()):
                found.append(child)
    return found


async def refusal(work: Awaitable[object]) -> PolicyDenied:
    with pytest.raises(PolicyDenied) as caught:
        await work
    return caught.value


async def busy(before: set[psutil.Process]) -> psutil.Process:
    """The new process, as soon as it searches."""
    while True:
        for worker in set(workers()) - before:
            with contextlib.suppress(psutil.NoSuchProcess):
                if worker.cpu_times().user > 0.2:
                    return worker
        await asyncio.sleep(0.01)
