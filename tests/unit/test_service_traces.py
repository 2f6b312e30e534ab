"""Spans go to a collector as each ends, while its run goes on; it may be slow, dead or gone; logs have no contents."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import belljar.service.traces
from belljar.audit import page_after, records_below
from belljar.audit.events import LogRead, RunFinished, RunStarted
from belljar.audit.export import otel
from belljar.audit.trajectory import trajectory
from belljar.config import read_config
from belljar.errors import AuditUnavailable, InvalidInput
from belljar.host import Host
from belljar.identity import TraceParent
from belljar.keys import Keys
from belljar.models import ModelRequest
from belljar.service.guard import Guard
from belljar.service.logs import JsonLines, log_to
from belljar.service.settings import ServiceSettings
from belljar.service.traces import Traces
from belljar.testing import FakeModel, register_toy, toy_policy
from tests import journals
from tests.unit.collectors import Collector
from tests.waiting import PATIENCE_S, until

SECRET = "a very secret question"


@pytest.fixture(autouse=True)
def _toy() -> None:
    register_toy()


def policy() -> Any:
    return toy_policy()


async def ask(host: Host) -> str:
    result = await host.execute(f"FINAL(llm_query({SECRET!r}))", sub_model=FakeModel(), policy=policy())
    assert result.status == "ok"
    return str(result.run)


@pytest.fixture
def all_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in the end is sent, however long a busy machine takes."""
    monkeypatch.setattr(belljar.service.traces, "_CLOSE_S", PATIENCE_S)


@pytest.fixture
def often(all_sent: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(belljar.service.traces, "LOOK_S", 0.02)


@pytest.mark.usefixtures("all_sent")
def test_a_run_s_spans_come_as_it_ends_without_what_was_said(tmp_path: Path) -> None:
    async def go(url: str) -> tuple[str, list[LogRead]]:
        async with Host(state=tmp_path, environ={}) as host:
            traces = Traces(host, url)
            run = await ask(host)
            await traces.aclose()
            assert traces.counts() == (0, 1)
            reads = [one.typed for one in await host.records() if isinstance(one.typed, LogRead)]
            return run, reads

    with Collector() as collector:
        run, reads = asyncio.run(go(collector.url))
    by_name = {span["name"]: span for span in collector.spans()}
    assert len(collector.spans()) == 3
    query, cell, root = (by_name[name] for name in ("chat fake", "execute_tool run_code", "invoke_agent code"))
    assert (query["parentSpanId"], cell["parentSpanId"]) == (cell["spanId"], root["spanId"])
    sent = b"".join(body for _, body in collector.got).decode()
    assert SECRET not in sent
    assert run in sent
    assert [(read.by, read.of) for read in reads] == [("telemetry", [run])]


@pytest.mark.usefixtures("all_sent")
def test_what_was_said_is_in_the_spans_where_the_operator_asks_for_it(tmp_path: Path) -> None:
    async def go(url: str) -> None:
        async with Host(state=tmp_path, environ={"BELLJAR_KEYS": str(tmp_path / "keys")}) as host:
            traces = Traces(host, url, keys=Keys.at({"BELLJAR_KEYS": str(tmp_path / "keys")}))
            await ask(host)
            await traces.aclose()

    with Collector() as collector:
        asyncio.run(go(collector.url))
    assert SECRET in b"".join(body for _, body in collector.got).decode()


class Thinker:
    """A root model that asks about something in its first turn, and answers in its second when it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()

    async def __call__(self, request: ModelRequest) -> str:
        if request.purpose == "sub":
            return "yes"
        if len(request.messages) == 1:
            return f"```repl\nprint(llm_query({SECRET!r}))\n```"
        await self.may.wait()
        return "```repl\nFINAL('so')\n```"


async def think(
    tmp_path: Path,
    collector: Collector,
    meanwhile: Callable[[Collector], object],
    *,
    caller: TraceParent | None = None,
) -> tuple[list[dict[str, Any]], list[LogRead], tuple[int, int]]:
    """A run whose model goes on when `meanwhile` holds of what the collector got: its export, readers and counts."""
    thinker = Thinker()
    async with Host(state=journals.place(tmp_path), environ={"BELLJAR_HOME": str(tmp_path)}) as host:
        traces = Traces(host, collector.url, caller_of=lambda _: caller)
        running = asyncio.create_task(host.run("?", model=FakeModel(thinker), policy=policy()))
        await asyncio.to_thread(until, lambda: meanwhile(collector) or running.done(), what="its spans have come")
        assert not running.done()
        thinker.may.set()
        run = str((await running).run)
        await asyncio.to_thread(until, lambda: sum(traces.counts()), what="the rest is sent or given up")
        await traces.aclose()
        found = trajectory(records_below(host.state.journal, run))
        assert found is not None
        reads = [one.typed for one in await host.records() if isinstance(one.typed, LogRead)]
        return by_id(otel.spans(found, caller=caller)), reads, traces.counts()


def by_id(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(found, key=lambda span: str(span["spanId"]))


def has_turn_1(collector: Collector) -> bool:
    return any(span["name"] == "turn 1" for span in collector.spans())


@pytest.mark.usefixtures("often", "store")
def test_what_has_ended_is_sent_while_the_run_goes_on_each_once_and_as_an_export_has_it(tmp_path: Path) -> None:
    early: list[str] = []

    def meanwhile(collector: Collector) -> bool:
        early[:] = [span["name"] for span in collector.spans()]
        return "turn 1" in early

    with Collector() as collector:
        exported, reads, counts = asyncio.run(think(tmp_path, collector, meanwhile))
        assert sorted(early) == ["chat fake", "chat fake", "execute_tool run_code", "turn 1"]
        assert by_id(collector.spans()) == exported
    assert len(exported) == 8
    assert [(read.by, len(read.of)) for read in reads] == [("telemetry", 1)]
    assert counts == (0, 1)
    assert SECRET not in str(collector.got)


@pytest.mark.usefixtures("often")
def test_what_a_collector_did_not_take_is_sent_again(tmp_path: Path) -> None:
    with Collector((503, b"busy"), (503, b"busy"), *[(200, b"{}")] * 20) as collector:
        exported, _, counts = asyncio.run(think(tmp_path, collector, lambda it: len(it.got) > 2 and has_turn_1(it)))
        taken = [json.loads(body) for _, body in collector.got[2:]]
    sent = [span for one in taken for span in one["resourceSpans"][0]["scopeSpans"][0]["spans"]]
    assert by_id(sent) == exported
    assert counts == (0, 1)


@pytest.mark.usefixtures("often")
def test_a_run_that_is_too_long_to_be_followed_is_sent_as_a_whole_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(belljar.service.traces, "RECORDS_MAX", 0)
    let_go, gone = Traces._let_go, []

    def noticed(traces: Traces, run: str) -> None:
        let_go(traces, run)
        gone.append(run)

    monkeypatch.setattr(Traces, "_let_go", noticed)
    with Collector() as collector:
        exported, _, counts = asyncio.run(think(tmp_path, collector, lambda it: gone and not it.got))
        assert by_id(collector.spans()) == exported
    assert counts == (0, 1)


@pytest.mark.usefixtures("often")
def test_a_log_that_could_not_be_read_for_once_costs_no_span(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [AuditUnavailable("the disk does not answer")]

    def failing(*args: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return page_after(*args, **more)

    monkeypatch.setattr(belljar.service.traces, "page_after", failing)
    with Collector() as collector:
        exported, _, counts = asyncio.run(think(tmp_path, collector, has_turn_1))
        assert by_id({span["spanId"]: span for span in collector.spans()}.values()) == exported
    assert caplog.text.count("the disk does not answer") == 1
    assert counts == (0, 1)


@pytest.mark.usefixtures("often")
def test_runs_that_were_not_followed_are_sent_when_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(belljar.service.traces, "FOLLOWED_MAX", 0)

    async def go(collector: Collector) -> tuple[int, int]:
        async with Host(state=tmp_path, environ={}) as host:
            traces = Traces(host, collector.url)
            await ask(host)
            await traces.aclose()
            return traces.counts()

    with Collector() as collector:
        assert asyncio.run(go(collector)) == (0, 1)
        assert len(collector.spans()) == 3


@pytest.mark.usefixtures("often")
def test_no_run_is_followed_that_was_given_up_or_never_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is heard of a run may not be written after all."""
    monkeypatch.setattr(belljar.service.traces, "WAITING_MAX", 1)
    monkeypatch.setattr(belljar.service.traces, "_FIRST_PAUSE_S", 0.001)

    async def go(collector: Collector) -> tuple[int, int]:
        async with Host(state=tmp_path, environ={}) as host:
            traces = Traces(host, collector.url)
            traces.observe("never", RunStarted(tenant="acme", contexts=[]))
            for number in range(8):  # the thread waits for this loop meanwhile
                traces.observe(f"given-up-{number}", RunStarted(tenant="acme", contexts=[]))
                traces.observe(f"given-up-{number}", RunFinished(status="ok", calls=0))
            await asyncio.to_thread(until, lambda: not traces._followed | traces._trees.keys(), what="they are let go")
            counts = traces.counts()
            await traces.aclose()
            return counts

    with Collector() as collector:
        assert asyncio.run(go(collector)) == (8, 0)
    assert collector.got == []


@pytest.mark.usefixtures("often")
def test_the_spans_of_a_run_are_below_its_caller_s(tmp_path: Path) -> None:
    caller = TraceParent("4b" * 16, "00f067aa0ba902b7")
    with Collector() as collector:
        exported, _, _ = asyncio.run(think(tmp_path, collector, has_turn_1, caller=caller))
        assert by_id(collector.spans()) == exported
    (root,) = (span for span in exported if span["name"] == "invoke_agent fake")
    assert (root["traceId"], root["parentSpanId"]) == caller


def test_runs_do_not_wait_for_a_collector_that_never_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(belljar.service.traces, "WAITING_MAX", 2)

    async def go(url: str) -> tuple[int, int]:
        async with Host(state=tmp_path, environ={}) as host:
            traces = Traces(host, url)
            for _ in range(6):
                await ask(host)
            counts = traces.counts()
            await traces.aclose()
            return counts

    with silent() as url:
        dropped, sent = asyncio.run(go(url))
    assert sent == 0
    assert dropped >= 2
    assert caplog.text.count("too slow") == 1


def test_a_collector_that_is_gone_is_counted_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))

        async def go() -> None:
            async with Host(state=tmp_path, environ={}) as host:
                traces = Traces(host, f"http://127.0.0.1:{taken.getsockname()[1]}")
                for _ in range(3):
                    await ask(host)
                await asyncio.to_thread(until, lambda: traces.counts() == (3, 0), what="all are given up")
                await traces.aclose()

        asyncio.run(go())
    assert caplog.text.count("spans are not sent") == 1


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """A port that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        yield f"http://127.0.0.1:{opened.getsockname()[1]}"


def test_the_configuration_names_a_collector_or_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "belljar.toml"
    file.write_text('schema = 1\n[telemetry]\notlp = "http://127.0.0.1:4318"\n')
    found = read_config(file).telemetry
    assert (found.otlp, found.contents) == ("http://127.0.0.1:4318", False)
    file.write_text("schema = 1\n")
    assert read_config(file).telemetry.otlp is None
    file.write_text('schema = 1\n[telemetry]\notlp = "somewhere"\n')
    with pytest.raises(InvalidInput, match=r"belljar\.toml:3: telemetry\.otlp: .* is not the URL of a collector"):
        read_config(file)


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged, in lines; afterwards logging is as it was."""
    root, ours = logging.getLogger(), logging.getLogger("belljar")
    before = (root.handlers[:], root.level, ours.level)
    stream = io.StringIO()
    log_to(stream)
    yield stream
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def test_half_a_character_is_written_as_its_number() -> None:
    """Not by a logger: whoever collects what tests log cannot pass it on."""
    record = logging.makeLogRecord({"name": "belljar.service", "msg": "half \ud800"})
    assert json.loads(JsonLines().format(record))["message"] == "half \\ud800"


def test_a_log_line_is_json_and_has_no_contents(lines: io.StringIO) -> None:
    logging.getLogger("belljar.service").warning("line\nbreak %s", "\x1b[31m")
    logging.getLogger("somebody.else").warning("sent %s", SECRET)
    logging.getLogger("somebody.else").info("chatter")
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("belljar.service").exception("a call failed")
    assert SECRET not in lines.getvalue()
    ours, theirs, failed = (json.loads(line) for line in lines.getvalue().splitlines())
    assert ours["message"] == "line\nbreak \x1b[31m"
    assert (ours["level"], ours["logger"]) == ("warning", "belljar.service")
    assert time.strptime(ours["time"][:19], "%Y-%m-%dT%H:%M:%S")
    assert theirs["message"] == "sent %s"
    assert failed["error"] == "ValueError"
    assert failed["at"][-1].startswith("test_a_log_line_is_json_and_has_no_contents:")


def test_the_id_that_an_answer_names_is_looked_up_in_the_log(lines: io.StringIO) -> None:
    """With the route, the status, and who asked; and of nobody but our guard, whatever a record has of that name."""
    told: list[Any] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        scope |= {"belljar.route": "GET /v1/runs/{run}", "belljar.by": "key:abc"}
        await send({"type": "http.response.start", "status": 404, "headers": []})

    async def send(message: Any) -> None:
        told.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/v1/runs/{SECRET}",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 5),
    }
    asyncio.run(Guard(app, ServiceSettings())(scope, None, send))  # type: ignore[arg-type]
    logging.getLogger("somebody.else").warning("sent", extra={"http": SECRET})
    line, other = (json.loads(line) for line in lines.getvalue().splitlines())
    assert line["http"].pop("ms", -1) >= 0
    assert line["http"] == {
        "request": dict(told[0]["headers"])[b"x-request-id"].decode(),
        "route": "GET /v1/runs/{run}",
        "status": 404,
        "client": "127.0.0.1",
        "by": "key:abc",
    }
    assert "http" not in other
    assert SECRET not in lines.getvalue()
