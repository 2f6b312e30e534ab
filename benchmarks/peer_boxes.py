"""Drives one peer of the second table, for `peers`. Run by the Python of that peer's environment, the peer's name as
its only argument. It imports nothing of this project. One JSON object a line comes in and one goes out:

    (at the start)                  {"version", "measures"}
    {"do": MEASURE, "count": N}     {"seconds": [...]}

    cold      from nothing to the first result of guest code, what the peer keeps warm included in what it takes
    pooled    the same, from what the peer keeps warm, where it keeps anything
    cell      one empty cell in a box that has run one
    query     one call of `llm_query` by guest code, answered by the host at once

It ends when stdin does. Times are taken here, so the pipe is not in them; loading the peer's modules is not counted.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["main"]

_FIRST = "1"
_EMPTY = "pass"
_REPLY = "ok"
_MEMORY = "512M"
_PROCESSES = 96
_ANSWER_S = 20.0

Measures = dict[str, Callable[[int], list[float]]]


def _timed(count: int, action: Callable[[], object]) -> list[float]:
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return seconds


def _until_first(count: int, box: Callable[[], Any]) -> list[float]:
    """`box` is a context manager whose value runs code; its end is not counted."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        with box() as execute:
            execute(_FIRST)
            seconds.append(time.perf_counter() - started)
    return seconds


def _asking(count: int) -> str:
    """Guest code that asks `count` times and prints what each took, in seconds."""
    return f"""\
import time
taken = []
for index in range({count}):
    started = time.perf_counter()
    reply = llm_query("ping")
    taken.append(time.perf_counter() - started)
    if reply != {_REPLY!r}:
        raise ValueError(reply)
for seconds in taken:
    print(seconds)
"""


def _answer(prompt: str) -> str:
    return _REPLY


class Monty:
    """`pydantic-monty`: a pool of worker processes. *cold* is a new pool, *pooled* takes a worker that waits."""

    name = "pydantic-monty"

    def __init__(self) -> None:
        self._library: Any = importlib.import_module("pydantic_monty")
        self._pool: Any = None

    @contextlib.contextmanager
    def ready(self) -> Iterator[Measures]:
        with self._library.Monty() as self._pool:
            yield {"cold": self._cold, "pooled": self._pooled, "cell": self._cells, "query": self._queries}

    def _cold(self, count: int) -> list[float]:
        @contextlib.contextmanager
        def box() -> Iterator[Any]:
            with self._library.Monty() as pool, pool.checkout() as session:
                yield session.feed_run

        return _until_first(count, box)

    def _pooled(self, count: int) -> list[float]:
        @contextlib.contextmanager
        def box() -> Iterator[Any]:
            with self._pool.checkout() as session:
                yield session.feed_run

        return _until_first(count, box)

    def _cells(self, count: int) -> list[float]:
        with self._pool.checkout() as session:
            session.feed_run(_FIRST)
            return _timed(count, lambda: session.feed_run(_EMPTY))

    def _queries(self, count: int) -> list[float]:
        printed = self._library.CollectString()
        with self._pool.checkout() as session:
            session.feed_run(_asking(count), external_lookup={"llm_query": _answer}, print_callback=printed)
        return [float(line) for line in printed.output.split()]


class Smolagents:
    """`smolagents`: its interpreter of syntax trees, in this process."""

    name = "smolagents"

    def __init__(self) -> None:
        self._type: Any = importlib.import_module("smolagents.local_python_executor").LocalPythonExecutor

    @contextlib.contextmanager
    def ready(self) -> Iterator[Measures]:
        yield {"cold": self._cold, "cell": self._cells, "query": self._queries}

    def _box(self) -> Any:
        executor = self._type([], additional_functions={"llm_query": _answer})
        executor.send_tools({})
        return executor

    def _cold(self, count: int) -> list[float]:
        return _timed(count, lambda: self._box()(_FIRST))

    def _cells(self, count: int) -> list[float]:
        executor = self._box()
        executor(_FIRST)
        return _timed(count, lambda: executor(_EMPTY))

    def _queries(self, count: int) -> list[float]:
        return [float(line) for line in self._box()(_asking(count)).logs.split()]


class RecursiveLlm:
    """`recursive-llm`: its REPL in a process of its own, and a bare function behind `llm_query`.

    Its guest code has no clock: a query is the time from one arrival at the host to the next, which is a whole round.
    """

    name = "recursive-llm"

    def __init__(self) -> None:
        self._type: Any = importlib.import_module("rlm.repl").REPLExecutor
        self._arrivals: list[float] = []

    @contextlib.contextmanager
    def ready(self) -> Iterator[Measures]:
        yield {"cold": self._cold, "cell": self._cells, "query": self._queries}

    def _query(self, prompt: str) -> str:
        self._arrivals.append(time.perf_counter())
        return _REPLY

    @contextlib.contextmanager
    def _box(self) -> Iterator[Callable[[str], str]]:
        environment = {"context": "", "query": "", "llm_query": self._query}
        with self._type() as executor:
            yield lambda code: executor.execute(code, environment)

    def _cold(self, count: int) -> list[float]:
        return _until_first(count, self._box)

    def _cells(self, count: int) -> list[float]:
        with self._box() as execute:
            execute(_FIRST)
            return _timed(count, lambda: execute(_EMPTY))

    def _queries(self, count: int) -> list[float]:
        self._arrivals = []
        with self._box() as execute:
            execute(f"for index in range({count + 1}):\n    llm_query('ping')")
        return [later - earlier for earlier, later in zip(self._arrivals, self._arrivals[1:], strict=False)]


class Sandlock:
    """`sandlock`: a fresh interpreter under its policy, start to end. It has neither cells nor queries."""

    name = "sandlock"

    def __init__(self) -> None:
        self._type: Any = importlib.import_module("sandlock").Sandbox
        self._python = os.path.realpath(sys.executable)
        places = ("/usr", "/lib", "/lib64", "/etc", "/dev", sys.base_prefix)
        self._policy = {
            "fs_readable": [place for place in places if os.path.exists(place)],
            "max_memory": _MEMORY,
            "max_processes": _PROCESSES,
        }

    @contextlib.contextmanager
    def ready(self) -> Iterator[Measures]:
        yield {"cold": lambda count: _timed(count, self._run)}

    def _run(self) -> None:
        result = self._type(**self._policy).run([self._python, "-I", "-S", "-c", "pass"], timeout=60)
        if not result.success:
            raise RuntimeError(f"sandlock: {result.error or result.stderr.decode(errors='replace')}")


class SandlockFork(Sandlock):
    """`sandlock`: one clone of this interpreter. It inherits all that this process has in memory."""

    @contextlib.contextmanager
    def ready(self) -> Iterator[Measures]:
        code = compile(_FIRST, "<cell>", "exec")
        reading, writing = os.pipe()

        def work(_: int) -> None:
            exec(code, {})
            os.write(writing, b"1")

        def fork() -> None:
            sandbox.fork(1)
            if not select.select([reading], [], [], _ANSWER_S)[0]:
                raise RuntimeError("sandlock: a clone gave no answer")
            os.read(reading, 1)

        sandbox = self._type(**self._policy, init_fn=lambda: None, work_fn=work)
        yield {"cold": lambda count: _timed(count, fork)}


_PEERS: dict[str, Any] = {
    "pydantic-monty": Monty,
    "recursive-llm": RecursiveLlm,
    "sandlock": Sandlock,
    "sandlock-fork": SandlockFork,
    "smolagents": Smolagents,
}


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # The peer, and what it starts, may print what it likes; only answers go out.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    peer = _PEERS[sys.argv[1]]()
    with peer.ready() as measures:
        _tell(answers, {"version": importlib.metadata.version(peer.name), "measures": list(measures)})
        for line in sys.stdin:
            order = json.loads(line)
            seconds = measures[order["do"]](order["count"])
            if len(seconds) != order["count"]:
                raise RuntimeError(f"{len(seconds)} times of {order['do']} where {order['count']} were asked for")
            _tell(answers, {"seconds": seconds})


def _tell(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
