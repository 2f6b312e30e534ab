"""A host that is busy for a moment, a program of its own so that it can be hit: `... busy_host STATE PORT RUNS BUSY_S`.

Each of its runs does all that the log has records of: cells, reads, a search, queries one by one and as a batch, a call
of a host tool, and a child run with queries of its own. The model is the provider at PORT (`faults.Provider`), and each
query goes to it over a socket of its own. BUSY_S is how many seconds it waits for the lock of another process, each
time. The program ends with the exit code that the command line would end with.
"""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial
from pathlib import Path
from unittest import mock

from belljar import BelljarError, Runtime
from belljar.cli.output import exit_code
from belljar.journal import opening
from belljar.journal.sqlite import SqliteStore
from belljar.models import FREE, ModelReply, ModelRequest, Usage

TEXT = "".join(f"line {number:05} of the text\n" for number in range(2000))
CELLS = (
    "print(context[0:40], context[30_000:30_100], len(context.search('0199')))\nprint(llm_query('one'))",
    "print(llm_query_batched(['two', 'three', 'four']), add(a=1, b=2))",
    "print(rlm_query('five', context[100:200]))",
    "print(context[200:260], llm_query('six'))",
)
CHILD = "```repl\nprint(context[0:20], llm_query('seven'))\nFINAL(context[3:9])\n```"


class Remote:
    """A model behind a socket: one line of JSON there, one line back."""

    name = "scripted:remote"
    scripted = True
    rates = FREE

    def __init__(self, port: int) -> None:
        self._port = port

    async def complete(self, request: ModelRequest) -> ModelReply:
        asked = [request.system, *(message.text for message in request.messages)]
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(json.dumps(asked).encode() + b"\n")
        said = (await reader.readline()).decode()
        writer.close()
        text = CHILD if request.purpose == "root" else said
        return ModelReply(text, Usage(1000, 10), self.name, "end_turn")

    async def aclose(self) -> None:
        """Nothing is kept open."""


def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


async def run(runtime: Runtime, model: Remote) -> int:
    async with runtime.session(context=TEXT, model=model, tools=[add]) as session:
        for code in CELLS:
            await session.execute(code)
            if session.result is not None:
                break
    assert session.result is not None
    return exit_code(session.result)


async def main(state: Path, port: int, runs: int) -> int:
    async with Runtime("dev", state=state, language="python") as runtime:
        return max(await asyncio.gather(*(run(runtime, Remote(port)) for _ in range(runs))), default=0)


if __name__ == "__main__":
    mock.patch.object(opening, "SqliteStore", partial(SqliteStore, busy_timeout_s=float(sys.argv[4]))).start()
    try:
        code = asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
    except BelljarError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code)
