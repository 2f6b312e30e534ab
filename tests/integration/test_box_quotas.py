"""Quotas of what a box uses, as a user meets them: a run that is stopped, a box too many, and what `budget()` says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import belljar
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
    assert 0 < page["used"][dimension] <= page["limits"][dimension]
    again = jar.exec("print(1)", "--json", "--tenant", "acme/research")
    assert (again.code, again.document["status"]) == (5, "quota")
    assert jar("quota", "check").code == 0
    assert jar("audit", "verify").code == 0


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
