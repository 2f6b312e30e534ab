"""Spans of runs go to a collector as runs end, which may be slow, dead or gone; and logs have no contents."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import belljar.service.traces
from belljar.audit.events import LogRead
from belljar.config import read_config
from belljar.errors import InvalidInput
from belljar.host import Host
from belljar.keys import Keys
from belljar.service.logs import JsonLines, log_to
from belljar.service.traces import Traces
from belljar.testing import FakeModel, register_toy, toy_policy
from tests.unit.collectors import Collector
from tests.waiting import until

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


def spans(body: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(body)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    return found


def test_a_run_s_spans_come_as_it_ends_without_what_was_said(tmp_path: Path) -> None:
    async def go(url: str) -> tuple[str, list[LogRead]]:
        async with Host(state=tmp_path, environ={}) as host:
            traces = Traces(host, url)
            run = await ask(host)
            await traces.aclose()
            assert traces.counts() == (0, 1)
            reads = [one.typed for one in await host.records() if isinstance(one.typed, LogRead)]
            return run, reads

    with Collector((200, b"{}")) as collector:
        run, reads = asyncio.run(go(collector.url))
    ((_, body),) = collector.got
    names = [span["name"] for span in spans(body)]
    assert names == ["invoke_agent code", "execute_tool run_code", "chat fake"]
    by_id = {span["spanId"]: span for span in spans(body)}
    query = spans(body)[2]
    assert by_id[query["parentSpanId"]]["name"] == "execute_tool run_code"
    assert SECRET not in body.decode()
    assert run in body.decode()
    assert [(read.by, read.of) for read in reads] == [("telemetry", [run])]


def test_what_was_said_is_in_the_spans_where_the_operator_asks_for_it(tmp_path: Path) -> None:
    async def go(url: str) -> None:
        async with Host(state=tmp_path, environ={"BELLJAR_KEYS": str(tmp_path / "keys")}) as host:
            traces = Traces(host, url, keys=Keys.at({"BELLJAR_KEYS": str(tmp_path / "keys")}))
            await ask(host)
            await traces.aclose()

    with Collector((200, b"{}")) as collector:
        asyncio.run(go(collector.url))
    ((_, body),) = collector.got
    assert SECRET in body.decode()


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
