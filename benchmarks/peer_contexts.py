"""Drives one peer of the fourth table, for `context_peers`. Run by the Python of that peer's environment, the peer's
name as its only argument. It imports nothing of this project. One JSON object a line comes in and one goes out:

    (at the start)                        {"version"}
    {"do": "open", "context": PATH|null}  {"seconds"}                      path to variable, when there is a context
    {"do": "execute", "code": TEXT}       {"seconds", "stdout", "stderr"}
    {"do": "close"}                       {}

These are the words of `peer_rlms`, too. It ends when stdin does. Times are taken here, so the pipe is not in them.

Two of the peers take the text with the first program and not before; what that takes is then in its time.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["main"]

_PROGRAM_S = 600.0


class Plain:
    """No peer: `exec` in this very process. What the machine itself needs."""

    def __init__(self) -> None:
        self.version = platform.python_version()
        self._names: dict[str, Any] = {}

    def open(self, text: str | None) -> None:
        self._names = {} if text is None else {"context": text}

    def execute(self, code: str) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, self._names)
        return printed.getvalue()

    def close(self) -> None:
        self._names = {}


class RecursiveLlm:
    """`recursive-llm`: its REPL in a process of its own, which gets the text pickled."""

    def __init__(self) -> None:
        self.version = importlib.metadata.version("recursive-llm")
        self._type: Any = importlib.import_module("rlm.repl").REPLExecutor
        self._repl: Any = None
        self._names: dict[str, Any] = {}

    def open(self, text: str | None) -> None:
        self._repl = self._type(timeout=_PROGRAM_S)
        self._names = {"context": text or "", "query": ""}

    def execute(self, code: str) -> str:
        return str(self._repl.execute(code, self._names))

    def close(self) -> None:
        self._repl.close()


class Dspy:
    """`dspy`: its LocalInterpreter, a process of its own, which gets the text as JSON."""

    def __init__(self) -> None:
        self.version = importlib.metadata.version("dspy")
        self._type: Any = importlib.import_module("dspy").LocalInterpreter
        self._interpreter: Any = None
        self._names: dict[str, Any] | None = None

    def open(self, text: str | None) -> None:
        self._interpreter = self._type(execution_timeout=_PROGRAM_S)
        self._interpreter.start()
        self._names = None if text is None else {"context": text}

    def execute(self, code: str) -> str:
        names, self._names = self._names, None
        return str(self._interpreter.execute(code, names) or "")

    def close(self) -> None:
        self._interpreter.shutdown()


_PEERS: dict[str, Any] = {"plain": Plain, "recursive-llm": RecursiveLlm, "dspy": Dspy}


def _obey(peer: Any, order: dict[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    if order["do"] == "open":
        path = order["context"]
        peer.open(None if path is None else Path(path).read_text(encoding="utf-8"))
        return {"seconds": time.perf_counter() - started}
    if order["do"] == "execute":
        printed = peer.execute(order["code"])
        return {"seconds": time.perf_counter() - started, "stdout": printed, "stderr": ""}
    if order["do"] == "close":
        peer.close()
        return {}
    raise ValueError(f"unknown order: {order['do']!r}")


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # The peer, and what it starts, may print what it likes; only answers go out.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    peer = _PEERS[sys.argv[1]]()
    _tell(answers, {"version": peer.version})
    for line in sys.stdin:
        _tell(answers, _obey(peer, json.loads(line)))


def _tell(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
