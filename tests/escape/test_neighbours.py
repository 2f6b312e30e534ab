"""What one box must not do to the host or to another box, and how a box ends while its session stays open."""

from __future__ import annotations

import asyncio
import statistics
import time

import pytest

from belljar import ModelReply, ModelRequest, Session
from belljar.errors import BoxFault, PolicyDenied
from belljar.models import FREE
from tests.escape.harness import CONTEXT, Escapes, Language
from tests.escape.pairing import Pair, load_pairs, run_pair

STUBBORN = """
import time
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
"""
CRUMBS = """
import json, os, struct
header = b'{"op":"output","stream":"stdout"}'
crumbs = (struct.pack("!II", len(header), 0) + header) * 4000
while True:
    os.write(3, crumbs)
"""
# Each child works for less than the kernel's limit on a process, and hands on.
RELAY = """
import os
if os.fork() == 0:
    while os.fork() == 0:
        sum(range(10_000_000))
    os._exit(0)
"""
# A neighbour's reads of a few hundred bytes take well below a millisecond on an idle machine.
LATENCY_S = 0.05


class Broken:
    """A model object with a defect."""

    name = "scripted:broken"
    scripted = True
    rates = FREE

    async def complete(self, request: ModelRequest) -> ModelReply:
        raise KeyError("a defect")

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize(
    "source", [STUBBORN, "FINAL('answer')", "while True: pass", "import os\nos.write(3, bytes(64))"]
)
def test_a_box_that_has_ended_is_dead_while_its_session_is_still_open(escapes: Escapes, source: str) -> None:
    async def stay() -> list[str]:
        runtime = await escapes.runtime("python", hasty=source == STUBBORN)
        async with runtime.session(context=CONTEXT) as session:
            await session.execute(source)
            return await escapes.left()

    assert escapes.drive(stay()) == []


def test_children_that_work_on_between_two_cells_meet_the_limit_on_cpu_time(escapes: Escapes) -> None:
    async def stay() -> tuple[str, list[str]]:
        runtime = await escapes.runtime("python")
        async with runtime.session() as session:
            await session.execute(RELAY)
            left = await escapes.left()
            with pytest.raises(PolicyDenied, match="ended"):
                await session.execute("x = 1")
        assert session.result is not None
        return session.result.status, left

    assert escapes.drive(stay()) == ("cpu", [])


def test_a_defect_of_a_model_is_a_fault_of_ours_and_told_at_once(escapes: Escapes) -> None:
    async def ask() -> None:
        runtime = await escapes.runtime("python")
        async with runtime.session(model=Broken()) as session:
            await session.execute("llm_query('x')")

    with pytest.raises(BoxFault, match="KeyError"):
        escapes.drive(ask())


def test_code_with_half_a_character_is_rejected(escapes: Escapes) -> None:
    async def run(language: Language) -> str:
        runtime = await escapes.runtime(language)
        async with runtime.session() as session:
            return (await session.execute("print('\ud800')")).status

    assert escapes.drive(run("python")) == "rejected"
    assert escapes.drive(run("restricted")) == "rejected"


def test_runtimes_of_one_process_do_not_end_each_others_boxes(escapes: Escapes) -> None:
    async def both() -> tuple[str, str]:
        python, restricted = await escapes.runtime("python"), await escapes.runtime("restricted")
        async with python.session() as one, restricted.session() as other:
            await one.execute("x = 1")
            await other.execute("x = 2")
            async with python.session() as third:
                await third.execute("x = 3")
            return (await one.execute("print(x)")).stdout, (await other.execute("print(x)")).stdout

    assert escapes.drive(both()) == ("1\n", "2\n")


def test_a_box_that_dies_takes_no_other_with_it(escapes: Escapes) -> None:
    async def some() -> list[str]:
        runtime = await escapes.runtime("python")
        async with runtime.session() as survivor:
            await survivor.execute("x = 'alive'")
            for source in (
                "import os\nos._exit(1)",
                "import ctypes\nctypes.string_at(0)",
                "x = [0]\nwhile True: x += x",
            ):
                await runtime.execute(source)
            return [(await survivor.execute("print(x)")).stdout]

    assert escapes.drive(some()) == ["alive\n"]


@pytest.mark.parametrize(
    "flood", [CRUMBS, "while True: print('x' * 5000)", "while True: budget()"], ids=["crumbs", "output", "budget"]
)
def test_a_flood_does_not_hold_up_a_neighbour(escapes: Escapes, flood: str) -> None:
    async def measure(session: Session) -> float:
        started = time.monotonic()
        assert (await session.execute("x = context[:200]")).status == "ok"
        return time.monotonic() - started

    async def side_by_side() -> tuple[float, float]:
        runtime = await escapes.runtime("python")
        async with runtime.session(context=CONTEXT) as neighbour, runtime.session(context=CONTEXT) as flooder:
            alone = [await measure(neighbour) for _ in range(20)]
            flooding = asyncio.create_task(flooder.execute(flood))
            await asyncio.sleep(0.1)
            taken = [await measure(neighbour) for _ in range(20)]
            await flooding
            return statistics.median(alone), statistics.median(taken)

    alone, beside = escapes.drive(side_by_side())
    # On a machine that others keep busy both are longer.
    assert beside < LATENCY_S + 10 * alone


@pytest.mark.parametrize("pair", load_pairs(), ids=lambda pair: pair.name)
def test_two_boxes_do_not_notice_each_other(escapes: Escapes, pair: Pair) -> None:
    cells = escapes.drive(run_pair(escapes, pair))
    text = repr(cells)
    assert "ESCAPED" not in text, text
    assert [cell.status for cell in cells] == ["ok", "ok"], text
    assert pair.says in "".join(cell.stdout for cell in cells), text
    escapes.canaries.check(text)
    assert escapes.survivors() == []
