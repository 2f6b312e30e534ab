"""Drives one peer of the third table, for `peers`. Run by the Python of that peer's environment. Its arguments are the
names of the peer and of an image, and two files that boxes have as context. It imports nothing of this project. One
JSON object a line comes in and one goes out:

    (at the start)                  {"version", "measures", "without"}   what it can do; by name, what not, and why
    {"do": MEASURE, "count": N}     {"seconds": [...]}

    cold          from nothing to the first result of guest code
    close         the peer's own end of a box, as its caller waits for it: of those boxes that were started last
    cell          one empty cell in a box that has run one
    query         one call of `llm_query` by guest code, answered by the host at once
    start_small   `cold`, with a small text as context, from the file
    start_large   the same with a large one
    cell_large    one empty cell beside the large text: in those boxes that were started last

Two measures are taken beside the one before them, so that no box is made only for them: making one takes seconds.

It ends when stdin does. Times are taken here, so the pipe is not in them; loading the peer's modules is not counted.
Containers are the peer's defaults, but for the image, which no peer may pull.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["main"]

_FIRST = "print(6 * 7)"
_EMPTY = "pass"
_REPLY = "ok"

Execute = Callable[[str], str]
Measures = dict[str, Callable[[int], list[float]]]


class NullModel:
    """What `rlms` asks of a model, and no more. Answers at once."""

    model_name = "null"

    def __init__(self, usage: Any) -> None:
        self._usage = usage

    def completion(self, prompt: Any) -> str:
        return _REPLY

    async def acompletion(self, prompt: Any) -> str:
        return _REPLY

    def get_last_usage(self) -> Any:
        return self._usage


class Rlms:
    """`rlms`, its *docker* environment: a container whose every cell is a `docker exec`.

    Its query goes over HTTP to a port of the host that listens on every interface.
    """

    name = "rlms"

    def __init__(self, image: str, small: Path, large: Path) -> None:
        self._image = image
        self._handler_type: Any = importlib.import_module("rlm.core.lm_handler").LMHandler
        self._repl_type: Any = importlib.import_module("rlm.environments.docker_repl").DockerREPL
        self._usage: Any = importlib.import_module("rlm.core.types").ModelUsageSummary(1, 1, 1)
        self.measures: Measures = {
            "cold": lambda count: [self._cold(None) for _ in range(count)],
            "close": lambda count: _last(self._closed, count),
            "cell": self._cells,
            "query": self._queries,
            "start_small": lambda count: [self._cold(small) for _ in range(count)],
            "start_large": lambda count: [self._cold(large) for _ in range(count)],
            "cell_large": lambda count: _last(self._beside, count),
        }
        # Of every box that `_cold` made: its end, and a cell.
        self._closed: list[float] = []
        self._beside: list[float] = []
        self.without: dict[str, str] = {}
        try:
            self._queries(1)
        except RuntimeError as error:
            # Its way to the host goes over a bridge, which a daemon need not have.
            del self.measures["query"]
            self.without["query"] = str(error)

    @contextlib.contextmanager
    def _box(self, context: Path | None) -> Iterator[tuple[Any, Execute]]:
        text = None if context is None else context.read_text(encoding="utf-8")
        handler = self._handler_type(NullModel(self._usage))
        repl = None
        try:
            repl = self._repl_type(image=self._image, lm_handler_address=handler.start(), context_payload=text)
            yield repl, lambda code: _rlms_cell(repl, code)
        finally:
            if repl is not None:
                repl.cleanup()
            handler.stop()

    def _cold(self, context: Path | None) -> float:
        started = time.perf_counter()
        with self._box(context) as (repl, execute):
            _check(execute(_FIRST))
            first = time.perf_counter() - started
            self._beside.append(_timed(lambda: execute(_EMPTY)))
            self._closed.append(_timed(repl.cleanup))
        return first

    def _cells(self, count: int) -> list[float]:
        with self._box(None) as (_, execute):
            _check(execute(_FIRST))
            return [_timed(lambda: execute(_EMPTY)) for _ in range(count)]

    def _queries(self, count: int) -> list[float]:
        with self._box(None) as (_, execute):
            return [float(line) for line in execute(_asking(count)).split()]


def _rlms_cell(repl: Any, code: str) -> str:
    result = repl.execute_code(code)
    if result.stderr:
        raise RuntimeError(f"a cell failed: {result.stderr.strip().splitlines()[-1]}")
    return str(result.stdout)


class LlmSandbox:
    """`llm-sandbox`, its *docker* backend: a container, and for every cell a file copied into it and an exec.

    It would make a virtual environment and ask an index for a newer pip at every start; there is no index here, so it
    is told to leave both (`skip_environment_setup`), which makes it faster. It knows no queries and no context.
    """

    name = "llm-sandbox"

    def __init__(self, image: str, _small: Path, _large: Path) -> None:
        self._image = image
        self._type: Any = importlib.import_module("llm_sandbox.docker").SandboxDockerSession
        self.measures: Measures = {
            "cold": lambda count: [self._cold() for _ in range(count)],
            "close": lambda count: _last(self._closed, count),
            "cell": self._cells,
        }
        self._closed: list[float] = []
        self.without: dict[str, str] = {}

    @contextlib.contextmanager
    def _box(self) -> Iterator[tuple[Any, Execute]]:
        session = self._type(image=self._image, lang="python", keep_template=True, skip_environment_setup=True)
        try:
            session.open()
            yield session, lambda code: _sandbox_cell(session, code)
        finally:
            if session.container is not None:
                # Ended otherwise, it takes ten seconds.
                session.container.kill()
                session.close()

    def _cold(self) -> float:
        started = time.perf_counter()
        with self._box() as (session, execute):
            _check(execute(_FIRST))
            first = time.perf_counter() - started
            self._closed.append(_timed(session.close))
        return first

    def _cells(self, count: int) -> list[float]:
        with self._box() as (_, execute):
            _check(execute(_FIRST))
            return [_timed(lambda: execute(_EMPTY)) for _ in range(count)]


def _sandbox_cell(session: Any, code: str) -> str:
    result = session.run(code)
    if result.exit_code:
        raise RuntimeError(f"a cell failed: {result.stderr.strip()[-300:]}")
    return str(result.stdout)


_PEERS: dict[str, Any] = {"rlms": Rlms, "llm-sandbox": LlmSandbox}


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


def _last(taken: list[float], count: int) -> list[float]:
    return taken[len(taken) - count :]


def _check(said: str) -> None:
    if said.strip() != "42":
        raise RuntimeError(f"the first cell printed {said!r}")


def _timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # The peer, and what it starts, may print what it likes; only answers go out.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    name, image, small, large = sys.argv[1:]
    peer = _PEERS[name](image, Path(small), Path(large))
    version = importlib.metadata.version(peer.name)
    _tell(answers, {"version": version, "measures": list(peer.measures), "without": peer.without})
    for line in sys.stdin:
        order = json.loads(line)
        _tell(answers, {"seconds": peer.measures[order["do"]](order["count"])})


def _tell(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
