"""Answers of equal queries across runs, through real boxes."""

from __future__ import annotations

import asyncio

from belljar import Result, Runtime
from belljar.streaming import QueryEvent
from belljar.testing import FakeModel
from tests.integration.support import Jar
from tests.integration.test_root_replies import block
from tests.unit.broker_fakes import policy_with

KEEPING = policy_with(models={"coalesce": "on", "cache_s": 3600.0})
THREE = "FINAL(llm_query_batched(['Which city?'] * 3))"
THREADS = """\
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    FINAL(sorted(pool.map(llm_query, ["Which city?", "Which river?"] * 8)))
"""


def test_a_tenant_pays_an_answer_once_another_tenant_for_its_own_and_the_log_is_sound(jar: Jar) -> None:
    model = FakeModel(name="scripted:cities")

    async def twice(runtime: Runtime, tenant: str, code: str) -> Result:
        first, second = [await runtime.execute(code, sub_model=model, tenant=tenant) for _ in range(2)]
        assert (second.answer, second.queries, second.usage.calls) == (first.answer, first.queries, 0)
        return first

    async def go() -> list[Result]:
        async with Runtime(KEEPING, state=jar.at, environ={}, language="python") as runtime:
            return [
                await twice(runtime, tenant, code)
                for tenant, code in [("acme", THREE), ("globex", THREE), ("globex/lab", THREADS)]
            ]

    acme, globex, lab = asyncio.run(go())
    assert (acme.answer, acme.usage.calls) == (["to Which city?"] * 3, 1)
    assert globex.usage.calls == 1
    assert (len(lab.answer), lab.queries, lab.usage.calls) == (16, 16, 2)
    assert len(model.requests) == 4
    assert len(jar.records("query.reused")) == 2 * (3 + 3 + 16) - 4
    asked = {record.data["origin"].rpartition(".")[0]: record.run for record in jar.records("query.reused")}
    assert len(asked) == 3  # each tenant's first run


def test_a_stream_tells_of_an_answer_that_is_used_again(jar: Jar) -> None:
    def play(request: object) -> str:
        return block(THREE) if getattr(request, "purpose", None) == "root" else "Paris"

    async def go() -> list[str]:
        async with Runtime(KEEPING, state=jar.at, environ={}) as runtime:
            model = FakeModel(play, name="scripted:cities")
            events = [event async for event in runtime.stream("Which?", context="x", model=model)]
        return [event.state for event in events if isinstance(event, QueryEvent)]

    states = asyncio.run(go())
    assert [states.count(state) for state in ("asked", "answered", "reused")] == [2, 2, 2]
