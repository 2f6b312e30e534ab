"""A process with a desk, for tests that kill it: it takes the orders of its arguments, and says on stdout what it does.

    python -m tests.integration.serving STATE HOME KEYS ORDER...

An order is a JSON object: `idem`, and `asked`. Lines of stdout are JSON objects, too: what `submit` gave, or which
prompt hangs. One run goes on at a time. The model of all is `scripted:paid`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from decimal import Decimal

import msgspec

from belljar import Host, ModelRequest
from belljar.identity import Tenant
from belljar.jobs import Asked, Desk, DeskLimits
from belljar.models import Rates
from belljar.testing import FakeModel

__all__ = ["PAID", "RATES", "TENANT", "prompt_of"]

PAID = "scripted:paid"
RATES = Rates(Decimal(1000), Decimal(1000))
TENANT = Tenant("acme")


def prompt_of(request: ModelRequest) -> str:
    """The program's own part of a prompt."""
    return request.messages[-1].text


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


async def answer(request: ModelRequest) -> str:
    """A root model reads its program from the question; whatever mentions `hang` has no answer."""
    if request.purpose == "root":
        program = next(line for line in request.messages[0].text.splitlines() if line.startswith("PROGRAM "))
        return f"```repl\n{json.loads(program.removeprefix('PROGRAM '))}\n```"
    if "hang" in prompt_of(request):
        say(hangs=prompt_of(request), run=request.run)
        await asyncio.Event().wait()
    return f"answer to {prompt_of(request)}"


async def main(state: str, home: str, keys: str, *orders: str) -> None:
    model = FakeModel(answer, PAID, rates=RATES)
    environ = {"BELLJAR_HOME": home, "BELLJAR_KEYS": keys}
    async with Host(state=state, models=[model], environ=environ) as host, Desk(host, DeskLimits(running=1)) as desk:
        for order in map(json.loads, orders):
            asked = msgspec.convert(order["asked"], Asked)
            taken = await desk.submit(asked, tenant=TENANT, by="key:first", idem=order["idem"])
            say(run=taken.run, made=taken.made)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
