"""Quotas of what a box uses, as a user meets them: a run that is stopped, a box too many, and what `budget()` says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import belljar
from belljar.models import ModelReply, ModelRequest, Usage
from belljar.testing import FakeModel
from tests.integration.support import PATIENCE_S, SMALL, Jar

BUSY = "print('begun', flush=True)\nwhile True:\n    pass"
IDLE = "import time\nprint('begun', flush=True)\ntime.sleep(50)"


def quota(jar: Jar, *limits: str) -> None:
    done = jar("quota", "set", "acme", *limits)
    assert (done.code, done.stderr) == (0, "")


def total(jar: Jar) -> Any:
    shown = json.loads(jar("quota", "show", "acme", "--json").stdout)["quotas"]
    return next(one for one in shown if one["period"] == "total")


@pytest.mark.parametrize(
    ("option", "bound", "dimension", "program"),
    [
        ("--wall", "4s/total", "wall_ms", IDLE),
        ("--cpu", "3s/total", "cpu_ms", BUSY),
        ("--memory-time", "2GiBs/total", "memory_mib_s", f"x = b'x' * (300 << 20)\n{IDLE}"),
    ],
    ids=["wall", "cpu", "memory"],
)
def test_a_run_whose_tenant_runs_out_is_stopped_and_keeps_its_output(
    jar: Jar, option: str, bound: str, dimension: str, program: str
) -> None:
    quota(jar, option, bound)
    outcome, result = jar.exec_json(program, "--tenant", "acme/research")
    assert (outcome.code, result["status"], result["stdout"]) == (5, "quota", "begun\n")
    assert result["error"]["type"] == "QuotaExceeded"
    page = total(jar)
    assert page["held"][dimension] == page["held"]["boxes"] == 0
    # On a busy machine some time passes before anybody looks; a box that nobody stops would use twelve times the limit.
    assert 0 < page["used"][dimension] < 8 * page["limits"][dimension]
    again = jar.exec("print(1)", "--json", "--tenant", "acme/research")
    assert (again.code, again.document["status"]) == (5, "quota")
    assert jar("quota", "check").code == 0
    assert jar("audit", "verify").code == 0


def test_what_was_charged_beyond_its_bound_is_in_the_result_the_log_and_the_explanation(jar: Jar) -> None:
    """A provider that bills more than the worst case that was asked for."""
    quota(jar, "--output-tokens", "1000000/total")

    def greedy(request: ModelRequest) -> ModelReply:
        return ModelReply("much", Usage(1, request.output_tokens_max + 77), "fake", "end_turn")

    async def go() -> belljar.Result:
        async with belljar.Runtime(state=jar.at, environ={}) as runtime:
            code = "print(llm_query('a'), llm_query('b'))"
            return await runtime.execute(code, sub_model=FakeModel(greedy, "scripted-greedy"), tenant="acme")

    result = asyncio.run(go())
    expected = belljar.Amounts(output_tokens=2 * 77)
    assert (result.stdout, result.overage) == ("much much\n", expected)
    assert json.loads(result.to_json())["overage"]["output_tokens"] == 2 * 77
    (finished,) = jar.records("run.finished")
    assert {name: value for name, value in finished.data["overage"].items() if value} == {"output_tokens": 2 * 77}
    explained = json.loads(jar("quota", "explain", result.run_text, "--json").stdout)
    assert explained["overage"]["output_tokens"] == 2 * 77
    told = jar("quota", "explain", result.run_text).stdout
    assert "it was charged more than was held for it: output tokens 154 beyond that\n" in told
    outcome, ordinary = jar.exec_json("print(1)")
    assert (outcome.code, ordinary["overage"]) == (0, None)
    assert "overage" not in jar.records("run.finished")[-1].data


def test_a_box_too_many_is_refused_and_nothing_is_started(jar: Jar) -> None:
    quota(jar, "--boxes", "1/now")

    async def go() -> list[str]:
        async with belljar.Runtime(state=jar.at, environ={}) as runtime:
            async with runtime.session(tenant="acme/one") as session:
                await session.execute("x = 1")
                with pytest.raises(belljar.QuotaExceeded) as caught:
                    await runtime.execute("print(1)", tenant="acme/two")
                assert (caught.value.dimension, caught.value.period, caught.value.scope) == ("boxes", "now", "acme")
            return [(await runtime.execute("print(1)", tenant="acme/two")).status]

    assert asyncio.run(asyncio.wait_for(go(), PATIENCE_S)) == ["ok"]
    assert total(jar)["held"]["boxes"] == 0


def test_budget_tells_a_program_what_its_tenant_has_left_and_nothing_of_those_above(jar: Jar) -> None:
    quota(jar, "--wall", "100s/total", "--memory-time", "1GiBh/total")
    assert jar("quota", "set", "acme/research", "--wall", "50s/day", "--calls", "7/day").code == 0
    outcome = jar.exec(
        "left = budget()\nprint(left.calls, 30_000 < left.wall_ms <= 50_000, left.memory_mib_s)\nprint(left)",
        "--tenant",
        "acme/research",
    )
    assert (outcome.code, outcome.stderr) == (0, "")
    first, second = outcome.stdout.splitlines()
    assert first == "7 True inf"
    assert second.startswith("<budget: 7 calls, ")
    assert second.endswith(", unlimited MiB-seconds of memory>")


@pytest.mark.parametrize(
    ("run", "level", "left"),
    [(5, 7, 5), (9, 7, 7), (9, None, 6), (4, None, 4)],
    ids=["the-runs-own", "its-tenants", "the-policys-for-its-tenant", "the-runs-own-below-the-policys"],
)
def test_budget_tells_the_tightest_of_policy_and_tenant_and_nothing_of_what_others_use(
    jar: Jar, run: int, level: int | None, left: int
) -> None:
    """The root tenant has 8 calls left, since a sibling has used 2; that counts, but is not told before it is 0."""
    quota(jar, "--calls", "10/day")
    if level is not None:
        assert jar("quota", "set", "acme/research", "--calls", f"{level}/day").code == 0
    policy = jar.policy(f"[quota.run]\ncalls = {run}\n[quota.tenant]\ncalls = 6")
    asks = "try:\n    llm_query('x')\nexcept Exception as error:\n    print(error)"

    async def go() -> list[str]:
        async with belljar.Runtime(str(policy), state=jar.at, environ={}) as runtime:
            model = FakeModel(name="scripted:fake")

            async def said(code: str, tenant: str) -> str:
                return (await runtime.execute(code, sub_model=model, tenant=tenant)).stdout

            await said("llm_query('a'), llm_query('b')", "acme/other")
            one = await said("print(budget().calls)", "acme/research")
            await runtime.quotas.set("acme", "day", calls=2)
            return [one, await said(f"print(budget().calls)\n{asks}\nprint(budget())", "acme/research")]

    before, after = asyncio.run(asyncio.wait_for(go(), PATIENCE_S))
    assert before == f"{left}\n"
    calls, refused, shown = after.splitlines()
    assert calls == "0"
    assert refused.startswith("the quota of the run's tenant is used up")
    assert not any(letter.isdigit() for letter in refused)
    assert shown.startswith("<budget: 0 calls, ")
    assert "acme" not in after


@pytest.mark.parametrize(
    ("table", "line", "code", "program"),
    [
        ("tenant", 'wall = "4 s"', "quota.tenant.wall", IDLE),
        ("tenant", 'cpu = "3 s"', "quota.tenant.cpu", BUSY),
        ("tenant", 'memory_time = "2 GiBs"', "quota.tenant.memory_time", f"x = b'x' * (300 << 20)\n{IDLE}"),
        ("run", 'memory_time = "2 GiBs"', "quota.run.memory_time", f"x = b'x' * (300 << 20)\n{IDLE}"),
    ],
    ids=["wall", "cpu", "memory", "memory-of-the-run"],
)
def test_a_policy_bounds_what_boxes_use_where_nothing_is_set_for_the_tenant(
    jar: Jar, table: str, line: str, code: str, program: str
) -> None:
    policy = jar.file("tight.toml", f"{SMALL}\n[quota.{table}]\n{line}\n")
    outcome, result = jar.exec_json(program, "--policy", policy)
    assert (outcome.code, result["status"], result["stdout"]) == (5, "quota", "begun\n")
    assert result["error"]["type"] == "QuotaExceeded"
    assert result["limit"]["code"] == code


def test_a_policy_bounds_boxes_and_calls_at_once_where_nothing_is_set_for_the_tenant(jar: Jar) -> None:
    policy = jar.file("tight.toml", f"{SMALL}\n[quota.tenant]\nboxes = 0\n")
    refused = jar.exec("print(1)", "--json", "--policy", policy)
    assert (refused.code, refused.document["status"]) == (5, "quota")
    assert "has 0 boxes of 0 boxes left at this moment" in refused.stderr
    policy = jar.file("tight.toml", f"{SMALL}\n[quota.tenant]\nboxes = 1\ncalls_in_flight = 0\n")
    asks = ("--sub-model", jar.script(rest='default = "many"\n'), "--policy", policy)
    outcome, result = jar.exec_json("llm_query('a')", *asks)
    assert (outcome.code, result["limit"]["code"]) == (5, "quota.tenant.calls_in_flight")
