"""Drives the peer `rlms`, its *local* environment, for `peers`. Run by the Python of the peers' own environment.

It imports nothing of this project. One JSON object a line comes in on stdin and one goes out on stdout:

    (at the start)                        {"version", "python"}
    {"do": "open", "context": PATH|null}  {"seconds"}                      path to variable, when there is a context
    {"do": "execute", "code": TEXT}       {"seconds", "stdout", "stderr"}
    {"do": "close"}                       {}

It ends when stdin does. Times are taken here, so the pipe is not in them.

A box of the peer is what its own completion loop sets up: the handler that answers queries, which listens on a
loopback socket, and the REPL. The REPL is `exec` in this very process: the peer's *local* environment has no isolation.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["main"]

_REPLY = "ok"


class NullModel:
    """What the peer asks of a model, and no more. Answers at once."""

    model_name = "null"

    def __init__(self, usage: Any) -> None:
        self._usage = usage

    def completion(self, prompt: Any) -> str:
        return _REPLY

    async def acompletion(self, prompt: Any) -> str:
        return _REPLY

    def get_last_usage(self) -> Any:
        return self._usage


class Driver:
    def __init__(self) -> None:
        self._handler_type: Any = importlib.import_module("rlm.core.lm_handler").LMHandler
        self._repl_type: Any = importlib.import_module("rlm.environments.local_repl").LocalREPL
        self._usage: Any = importlib.import_module("rlm.core.types").ModelUsageSummary(1, 1, 1)
        self._handler: Any = None
        self._repl: Any = None

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        if order["do"] == "open":
            return self._open(order["context"])
        if order["do"] == "execute":
            return self._execute(order["code"])
        if order["do"] == "close":
            self.close()
            return {}
        raise ValueError(f"unknown order: {order['do']!r}")

    def close(self) -> None:
        if self._repl is not None:
            self._repl.cleanup()
        if self._handler is not None:
            self._handler.stop()
        self._repl = self._handler = None

    def _open(self, context: str | None) -> dict[str, Any]:
        started = time.perf_counter()
        text = None if context is None else Path(context).read_text(encoding="utf-8")
        self._handler = self._handler_type(NullModel(self._usage))
        address = self._handler.start()
        self._repl = self._repl_type(lm_handler_address=address, context_payload=text)
        return {"seconds": time.perf_counter() - started}

    def _execute(self, code: str) -> dict[str, Any]:
        started = time.perf_counter()
        result = self._repl.execute_code(code)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "stdout": result.stdout, "stderr": result.stderr}


def main() -> None:
    answers = sys.stdout
    # The peer may print what it likes; only answers go out.
    sys.stdout = sys.stderr
    driver = Driver()
    _tell(answers, {"version": importlib.metadata.version("rlms"), "python": platform.python_version()})
    try:
        for line in sys.stdin:
            _tell(answers, driver.obey(json.loads(line)))
    finally:
        driver.close()


def _tell(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
