"""Drives one peer, for `batches`: a batch of queries to a model object that sleeps. Run by the peer's own Python.

It imports nothing of this project. One JSON object a line comes in on stdin and one goes out on stdout:

    (at the start)                                          {"version", "how"}
    {"do": "batch", "queries", "parallel", "call_s"}        {"answers", "wall_s", "cpu_s"}

Both peers are asked by guest code, as a root model would have written it, in the environment that has no isolation, and
are allowed as many calls side by side as is ordered: by themselves they take 16 and 8. CPU time is of this process and
of the children it has waited for.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import json
import os
import sys
import time
from typing import Any

_PROGRAM = "answers = llm_query_batched([f'question {{n}}' for n in range({queries})])\nprint(len(answers))"
_REPLY = "ok"


class Rlms:
    """`rlms`: its handler of queries on loopback, and its local REPL, which is `exec` in this process."""

    how = "local (no isolation, no log)"

    def __init__(self) -> None:
        self.version = importlib.metadata.version("rlms")
        self._handler_type: Any = importlib.import_module("rlm.core.lm_handler").LMHandler
        self._repl_type: Any = importlib.import_module("rlm.environments.local_repl").LocalREPL
        self._usage: Any = importlib.import_module("rlm.core.types").ModelUsageSummary(1, 1, 1)

    def batch(self, queries: int, parallel: int, call_s: float) -> tuple[str, float, float]:
        usage = self._usage

        class Slow:
            model_name = "null"

            async def acompletion(self, prompt: Any) -> str:
                await asyncio.sleep(call_s)
                return _REPLY

            def get_last_usage(self) -> Any:
                return usage

        handler = self._handler_type(Slow(), batch_max_concurrent=parallel)
        repl = self._repl_type(lm_handler_address=handler.start(), context_payload=None)
        try:
            began, cpu_s = time.perf_counter(), _cpu_s()
            said = repl.execute_code(_PROGRAM.format(queries=queries))
            return said.stdout, time.perf_counter() - began, _cpu_s() - cpu_s
        finally:
            repl.cleanup()
            handler.stop()


class Dspy:
    """`dspy`: the tools that its RLM gives to a program, in its LocalInterpreter, a process of its own."""

    how = "LocalInterpreter (no isolation, no log)"

    def __init__(self) -> None:
        self.version = importlib.metadata.version("dspy")
        self._dspy: Any = importlib.import_module("dspy")

    def batch(self, queries: int, parallel: int, call_s: float) -> tuple[str, float, float]:
        def slow(prompt: str) -> list[str]:
            time.sleep(call_s)
            return [_REPLY]

        rlm = self._dspy.RLM("context -> answer", max_llm_calls=queries, sub_lm=slow)
        interpreter = self._dspy.LocalInterpreter(tools=rlm._make_llm_tools(max_workers=parallel))
        interpreter.start()
        before = _cpu_s()
        try:
            interpreter.execute("pass")
            began = time.perf_counter()
            said = str(interpreter.execute(_PROGRAM.format(queries=queries)))
            wall_s = time.perf_counter() - began
        finally:
            interpreter.shutdown()
        return said, wall_s, _cpu_s() - before


def _cpu_s() -> float:
    return sum(os.times()[:4])


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # The peer, and what it starts, may print what it likes; only answers go out.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    peer: Any = {"rlms": Rlms, "dspy": Dspy}[sys.argv[1]]()
    print(json.dumps({"version": peer.version, "how": peer.how}), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        said, wall_s, cpu_s = peer.batch(order["queries"], order["parallel"], order["call_s"])
        print(json.dumps({"answers": int(said), "wall_s": wall_s, "cpu_s": cpu_s}), file=answers, flush=True)


if __name__ == "__main__":
    main()
