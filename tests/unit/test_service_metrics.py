"""What a service counts: from the log alone, with few labels whatever anybody sends, and answered on one path."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from belljar.audit.events import (
    AmountsData,
    BoxStarted,
    Event,
    HookDelivered,
    HttpRequest,
    QueryCompleted,
    QueryDenied,
    QueryFailed,
    QueryRequested,
    RequestRefused,
    RunAbandoned,
    RunFinished,
    RunStarted,
)
from belljar.host import Host
from belljar.ledger import Amounts, Limits, Quota, Remaining
from belljar.service.metrics import FRESH_S, TENANTS_MAX, HostSources, Metrics, MetricsPage, Reading
from belljar.testing import FakeClock, FakeModel, register_toy, toy_policy

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "belljar.json"
SHA = "0" * 64
AMOUNTS = dict.fromkeys(("calls", "input_tokens", "output_tokens", "cost_nanousd", "read_bytes"), 0)


def asked(action: str, model: str) -> QueryRequested:
    return QueryRequested(
        action=action,
        cell=1,
        attempt=1,
        model=model,
        purpose="sub",
        prompt_sha256=SHA,
        prompt_bytes=1,
        output_tokens_max=1,
    )


def answered(action: str, cost_nanousd: int) -> QueryCompleted:
    return QueryCompleted(
        action=action,
        calls=1,
        input_tokens=5,
        output_tokens=7,
        cost_nanousd=cost_nanousd,
        reply_sha256=SHA,
        reply_bytes=1,
        answered_by="x",
        stop_reason="end_turn",
    )


def failed(action: str, error: str) -> QueryFailed:
    return QueryFailed(action=action, calls=1, input_tokens=0, output_tokens=0, cost_nanousd=0, error=error)


def told(metrics: Metrics, *events: Event, run: str = "20260101T000000-0") -> None:
    for event in events:
        metrics.observe(run, event)


def values(metrics: Metrics, reading: Reading | None = None) -> dict[str, float]:
    """What is scraped: each sample, with its labels in the order of their names."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.show(reading or Reading()).decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def quota(tenant: str) -> Quota:
    limits = Limits("day", 100, None, None, None, None, None)
    left = Remaining(*[None] * len(Remaining.__struct_fields__))
    return Quota(
        tenant=tenant,
        period="day",
        key="2026-01-01",
        resets_at=None,
        used=Amounts(calls=3),
        held=Amounts(calls=1),
        limits=limits,
        left=left,
    )


def test_what_is_logged_is_counted() -> None:
    clock = FakeClock()
    metrics = Metrics(["claude-x"], clock=clock)
    told(metrics, RunStarted(tenant="acme", contexts=[]))
    clock.now += 0.03
    told(metrics, BoxStarted(layers=[]), asked("a", "claude-x"))
    clock.now += 2
    told(metrics, answered("a", 25 * 10**8), asked("b", "claude-x"), failed("b", "the host answered 529 overloaded"))
    told(
        metrics,
        QueryDenied(action="c", code="quota.run.calls"),
        RequestRefused(cell=1, asked="read", code="x", count=4),
    )
    told(metrics, HttpRequest(by="key:1", route="GET /v1/runs/{run}", status=404))
    told(metrics, HttpRequest(by="nobody", route="GET /v1/runs", status=401, unlogged=3))
    told(metrics, RunFinished(status="ok", calls=2, wall_ms=2030))
    told(metrics, HookDelivered(hook="h", delivery="d", told="run.ended", of="r", attempts=1, arrived=True))
    found = values(metrics)
    assert found["belljar_log_records_total"] == 12
    assert found["belljar_runs_total{kind=root,status=ok}"] == 1
    assert found["belljar_start_seconds_bucket{le=0.02}"] == 0
    assert found["belljar_start_seconds_bucket{le=0.05}"] == 1
    assert found["belljar_query_seconds_bucket{le=2.5,purpose=sub}"] == 2
    assert found["belljar_spend_usd_total{model=claude-x}"] == 2.5
    assert found["belljar_tokens_total{direction=output,model=claude-x}"] == 7
    assert found["belljar_queries_total{outcome=completed,purpose=sub}"] == 1
    assert found["belljar_provider_errors_total{code=529}"] == 1
    assert found["belljar_refusals_total{code=x}"] == 4
    assert found["belljar_http_requests_total{route=GET /v1/runs/{run},status=4xx}"] == 1
    assert found["belljar_http_requests_total{route=other,status=4xx}"] == 3
    assert found["belljar_run_seconds_sum"] == 2.03
    assert found["belljar_hook_deliveries_total{outcome=arrived}"] == 1
    assert found["process_resident_memory_bytes"] > 0


def test_ten_thousand_tenants_and_names_that_strangers_chose_make_few_series() -> None:
    metrics = Metrics([f"model-{n}" for n in range(1000)])
    for n in range(10_000):
        run = f"20260101T000000-{n}"
        told(metrics, RunStarted(tenant=f"t{n}", contexts=[]), BoxStarted(layers=[]), run=run)
        told(metrics, asked(f"{n}", f'"}} {n}\nmodel{{x="'), answered(f"{n}", 1), run=run)
        told(metrics, asked(f"f{n}", "model-1"), failed(f"f{n}", f"status {400 + n % 200}: {n}"), run=run)
        told(metrics, QueryDenied(action=f"d{n}", code=f"code.{n}"), RequestRefused(cell=1, asked="x", code=f"{n}"))
        told(metrics, HttpRequest(by=f"key:{n}", route=f"GET /{n}", status=n % 1000), run="host.service")
        told(metrics, RunFinished(status=f"status{n}", calls=0), run=run)
        told(metrics, RunAbandoned(**AMOUNTS, charged=AmountsData(**AMOUNTS)), run=f"{run}.00001")
    found = values(metrics, Reading(quotas=[quota(f"t{n:05}") for n in range(10_000)]))
    assert len(found) < 1000
    assert found["belljar_spend_usd_total{model=other}"] == pytest.approx(1e-5)
    assert sum(1 for name in found if name.startswith("belljar_quota_used{")) == TENANTS_MAX
    assert not any("999" in name for name in found if "quota" not in name)
    # Nothing is lost, only put together.
    assert sum(value for name, value in found.items() if name.startswith("belljar_http_requests_total{")) == 10_000
    assert not metrics._began
    assert not metrics._asked


def test_quotas_are_told_of_tenants_that_have_limits_on_the_first_level_alone() -> None:
    found = values(Metrics(), Reading(quotas=[quota("acme"), quota("acme/research")]))
    assert [name for name in found if name.startswith("belljar_quota_limit{")] == [
        "belljar_quota_limit{dimension=calls,period=day,tenant=acme}"
    ]
    assert found["belljar_quota_held{dimension=calls,period=day,tenant=acme}"] == 1


def test_runs_and_calls_that_never_end_take_bounded_memory() -> None:
    metrics = Metrics()
    for n in range(25_000):
        told(metrics, RunStarted(tenant="t", contexts=[]), asked(f"{n}", "x"), run=f"r{n}")
    assert len(metrics._began) == len(metrics._asked) == 20_000


class Fixed:
    def __init__(self) -> None:
        self.asked = 0

    async def read(self) -> Reading:
        self.asked += 1
        return Reading(queued=self.asked)


def test_who_scrapes_within_some_seconds_gets_the_same_and_nobody_is_asked_again() -> None:
    sources, clock = Fixed(), FakeClock()

    async def go() -> None:
        page = MetricsPage(Metrics(), sources, clock=clock)
        first = await page.read()
        assert b"\nbelljar_queue_length 1.0\n" in first
        assert (await page.read(), sources.asked) == (first, 1)
        clock.now += FRESH_S
        assert b"\nbelljar_queue_length 2.0\n" in await page.read()

    asyncio.run(go())


def test_a_host_s_records_are_all_counted_and_its_gauges_are_its_own(tmp_path: Path) -> None:
    register_toy()
    metrics = Metrics(["fake"])

    async def go() -> dict[str, float]:
        async with Host(state=tmp_path, environ={}) as host:
            host.heard_by(metrics.observe)
            await host.quotas.set("acme", "day", calls=10)
            result = await host.execute(
                "FINAL(llm_query('which?'))", sub_model=FakeModel(), tenant="acme/one", policy=toy_policy()
            )
            assert result.status == "ok"
            sources = HostSources(host, queue=lambda: (4, 2))
            return values(metrics, await sources.read()) | {"expected": len(await host.records())}

    found = asyncio.run(go())
    assert found["belljar_log_records_total"] == found["expected"] > 5
    assert found["belljar_runs_total{kind=root,status=ok}"] == 1
    assert found["belljar_tokens_total{direction=input,model=fake}"] == 5
    assert (found["belljar_queue_length"], found["belljar_orders_running"]) == (4, 2)
    assert found["belljar_log_unsigned_records"] == 0
    assert found["belljar_quota_used{dimension=calls,period=day,tenant=acme}"] == 1
    assert found["belljar_quota_limit{dimension=calls,period=day,tenant=acme}"] == 10


def names_of(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:belljar|process)_\w+", expression))


def test_every_query_of_the_dashboard_names_a_metric_that_is_there() -> None:
    metrics = Metrics()
    shown = metrics.show(Reading(unsigned=1, quotas=[quota("acme")])).decode()
    there = set(re.findall(r"^# TYPE (\w+)", shown, re.MULTILINE))
    there |= {f"{name}_bucket" for name in re.findall(r"^# TYPE (\w+) histogram", shown, re.MULTILINE)}
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    asked_for = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(asked_for) > 20
    for expression in asked_for:
        assert names_of(expression), expression
        assert names_of(expression) <= there, expression
    ours = {name for name in there if name.startswith("belljar_") and not name.endswith(("_created", "_bucket"))}
    bases = {name.removesuffix("_bucket") for expression in asked_for for name in names_of(expression)}
    assert ours <= bases, "each metric has its place in the dashboard"
