"""What a killed host leaves behind, and what a living one is spared: the log, the books and the owners' locks."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import belljar
from belljar.audit import Record, records, verify
from belljar.errors import AuditUnavailable, InvalidInput, LedgerUnavailable, PolicyDenied, Refusal
from belljar.identity import RunId, Tenant
from belljar.ledger import Amounts, Ledger, Quota, period_key
from belljar.testing import FakeModel
from tests.integration.support import PATIENCE_S, Jar
from tests.integration.test_interrupt import ASKS, Provider, provider, started, stop
from tests.journals import OwnLedger, meddle
from tests.waiting import until

__all__ = ["provider"]

HANGS = "import time\nprint(context[0:1])\ntime.sleep(300)"
ENTERS = """
import asyncio, sys
from pathlib import Path
from belljar import Runtime
async def main():
    async with Runtime(state=Path(sys.argv[1])):
        print("settled")
asyncio.run(main())
"""


def costs(found: list[Record]) -> int:
    return sum(record.data["cost_nanousd"] for record in found if record.event in ("run.finished", "run.abandoned"))


def test_after_a_kill_the_log_says_what_the_books_charged(jar: Jar, provider: Provider) -> None:
    running = started(jar, ASKS, "--model", "claude-haiku-5-5", env=provider.environ)
    assert provider.asked.wait(PATIENCE_S)
    stop(running, signal.SIGKILL)
    assert jar.exec("print('next')").stdout == "next\n"
    found = jar.records("run.abandoned")
    assert len(found) == 1
    abandoned = found[0]
    assert abandoned.data["charged"]["calls"] == abandoned.data["calls"] == 1
    assert costs(jar.records()) == jar.spent().cost_nanousd > 0
    assert jar.spent().read_bytes >= abandoned.data["read_bytes"] > 0
    report = verify(jar.journal)
    assert (report.problems, report.unfinished) == ([], [])
    assert os.listdir(jar.state.owners) == []


class Refusing(http.server.BaseHTTPRequestHandler):
    """Refuses the first request with a status and, by `again_s`, a pause; any other is not answered."""

    status: int
    again_s: str
    asked: list[threading.Event]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        first, second, over = self.asked
        if first.is_set():
            second.set()
            over.wait()
            return
        first.set()
        self.send_response(self.status)
        self.send_header("retry-after", self.again_s)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on the test's stderr."""


@contextlib.contextmanager
def refusing(status: int, again_s: str) -> Iterator[tuple[dict[str, str], threading.Event]]:
    """What a client has to know of such a provider, and what is set once the second request is there."""
    asked = [threading.Event() for _ in range(3)]
    handler = type("Handler", (Refusing,), {"status": status, "again_s": again_s, "asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            yield {"ANTHROPIC_API_KEY": "none", "ANTHROPIC_BASE_URL": url}, asked[1]
        finally:
            asked[2].set()
            server.shutdown()
            thread.join()


@pytest.fixture
def log(jar: Jar, store: str, request: pytest.FixtureRequest) -> Path | str:
    """Where the log and the ledger of the jar's hosts are."""
    if store == "sqlite":
        return jar.journal
    url: str = request.getfixturevalue("postgres").database()
    return url


@pytest.mark.parametrize("status", [429, 500], ids=["costs-nothing", "may-have-been-billed"])
@pytest.mark.parametrize("moment", ["between", "in-the-second"])
def test_a_host_that_is_killed_between_two_attempts_is_charged_for_what_it_sent(
    jar: Jar, log: Path | str, monkeypatch: pytest.MonkeyPatch, status: int, moment: str
) -> None:
    """The first attempt was settled by whoever is dead now; what the second held is charged by whoever comes next."""
    monkeypatch.setattr("belljar.recovery.LEASE_S", 0.0)
    journal = {} if isinstance(log, Path) else {"BELLJAR_JOURNAL": log}

    def of(event: str) -> list[Record]:
        with contextlib.suppress(AuditUnavailable, InvalidInput):  # nobody has made it yet
            return [record for record in records(log) if record.event == event]
        return []

    with refusing(status, "30" if moment == "between" else "0") as (environ, second):
        program = jar.file("asks.py", "llm_query('why?')")
        options = ("--quiet", "--language", "python", "--model", "claude-haiku-5-5")
        running = jar.start("exec", program, *options, env=environ | journal)
        if moment == "between":
            until(lambda: of("query.failed"), what="the first attempt has failed")
        else:
            until(second.is_set, what="the second attempt is sent")
        stop(running, signal.SIGKILL)

    async def next_host() -> list[Quota]:
        state = jar.at if isinstance(log, Path) else log
        async with belljar.Runtime(state=state, environ={"BELLJAR_HOME": str(jar.at)}) as runtime:
            assert await runtime.quotas.check() == []
            return [one for one in await runtime.quotas.show("default") if one.period == "total"]

    (total,) = asyncio.run(next_host())
    attempts = [record.data["attempt"] for record in of("query.requested")]
    (failed,), (abandoned,) = of("query.failed"), of("run.abandoned")
    charged = abandoned.data["charged"]
    assert (failed.data["cost_nanousd"] > 0) == (status == 500)
    if moment == "between":
        assert (attempts, charged["calls"], charged["cost_nanousd"]) == ([1], 0, 0)
    else:
        assert (attempts, charged["calls"]) == ([1, 2], 1)
        assert charged["cost_nanousd"] > 0
    assert abandoned.data["calls"] == total.used.calls == len(attempts)
    cost = failed.data["cost_nanousd"] + charged["cost_nanousd"]
    assert abandoned.data["cost_nanousd"] == total.used.cost_nanousd == cost
    assert total.held == Amounts()
    report = verify(log)
    assert (report.problems, report.unfinished) == ([], [])


def test_a_host_that_stays_up_settles_what_a_killed_one_left(jar: Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("belljar.recovery.LOOK_S", 0.05)
    text, program = jar.file("text.txt", "abc"), jar.file("hangs.py", HANGS)

    def kill_one() -> None:
        running = jar.start("exec", program, "--context", text, "--language", "python")
        until(lambda: jar.records("context.read"), what="the program runs")
        until(lambda: jar.open_reservations(of_boxes=True) == 4, what="both have a box and a portion")
        running.signal(signal.SIGKILL)
        running.wait()
        until(lambda: jar.records("run.abandoned"), what="it was settled")

    async def main() -> None:
        async with belljar.Runtime(state=jar.at) as runtime, runtime.session() as session:
            await asyncio.to_thread(kill_one)
            ours = "ours has its box and a portion"  # between two portions it has both
            await asyncio.to_thread(until, lambda: jar.open_reservations(of_boxes=True) == 2, what=ours)
            assert (await session.execute("print(1)")).stdout == "1\n"

    asyncio.run(main())
    assert len(jar.records("run.abandoned")) == 1
    assert [record.data["status"] for record in jar.records("run.finished")] == ["ok"]
    assert os.listdir(jar.state.owners) == []


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="needs a namespace of its own")
def test_a_start_in_another_pid_namespace_settles_no_living_run(jar: Jar) -> None:
    async def main() -> None:
        async with belljar.Runtime(state=jar.at) as runtime, runtime.session(context="text") as session:
            assert (await session.execute("print(context[0])")).stdout == "t\n"
            enter = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", ENTERS, str(jar.at)]
            said = await asyncio.to_thread(
                subprocess.run, enter, capture_output=True, text=True, timeout=PATIENCE_S, check=False
            )
            if "unshare" in said.stderr:
                pytest.skip("no namespaces here")
            assert said.stdout == "settled\n", said.stderr
            assert (await session.execute("print(context[1])")).stdout == "e\n"
        assert session.result is not None
        assert session.result.status == "ok"

    asyncio.run(main())
    assert jar.records("run.abandoned") == []


@pytest.mark.parametrize("state", ["held in the books alone", "ended in the log"])
def test_what_has_no_open_beginning_in_the_log_is_only_closed_in_the_books(jar: Jar, state: str) -> None:
    assert jar.exec("print(1)").code == 0
    run = RunId(jar.records("run.finished")[0].run if state == "ended in the log" else "never-logged")

    async def leave() -> None:
        ledger = OwnLedger(jar.journal, owner="dead")
        if state == "ended in the log":
            # As an older version left it, which died between the log's end of the run and that of its account.
            await meddle(ledger.journal, "UPDATE runs SET is_open = 1, owner = 'dead' WHERE run = ?", run)
        else:
            free = belljar.ledger.Limits("total", None, None, None, None, None)
            await ledger.open_run(run, Tenant("acme"), run_limits=free, tenant_limits=free)
        await ledger.aclose()

    asyncio.run(leave())
    assert jar.exec("print(2)").code == 0
    assert jar.records("run.abandoned") == []

    async def is_closed() -> None:
        ledger = OwnLedger(jar.journal, owner="test")
        with pytest.raises(LedgerUnavailable, match="is closed in the ledger"):
            await ledger.remaining(run, now=time.time())
        await ledger.aclose()

    asyncio.run(is_closed())


def test_a_log_that_goes_away_stops_the_run_before_its_next_call(jar: Jar) -> None:
    model = jar.script(rest='[[reply]]\nwhen = "a"\ntext = "b"\n')
    moved = jar.work / "moved.db"

    async def lose_the_log() -> None:
        async with belljar.Runtime(state=jar.at) as runtime, runtime.session(model=model) as session:
            assert (await session.execute("print(llm_query('a'))")).stdout == "b\n"
            # What became of the first call is written a little later.
            await asyncio.to_thread(until, lambda: jar.open_reservations() == 0, what="the call is settled")
            jar.journal.rename(moved)
            await session.execute("print(llm_query('a'))")

    jar.expect_unfinished = True
    with pytest.raises((AuditUnavailable, LedgerUnavailable), match="put it back, or restart"):
        asyncio.run(lose_the_log())
    moved.rename(jar.journal)
    assert len(jar.records("query.requested")) == jar.spent().calls == 1


@pytest.mark.parametrize("number", [1, 2], ids=["its-root-model", "its-program"])
def test_a_store_that_fails_a_child_run_ends_its_parent_too(
    jar: Jar, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    reserve, asked = Ledger.reserve, [0]

    async def fail_once(ledger: Ledger, run: RunId, *amounts: Any, **how: Any) -> str:
        asked[0] += run.depth
        if run.depth and asked[0] == number:
            raise LedgerUnavailable("the disk is full")
        return await reserve(ledger, run, *amounts, **how)

    def answer(request: belljar.ModelRequest) -> str:
        return "```repl\nFINAL(llm_query('a'))\n```" if request.purpose == "root" else "yes"

    async def main() -> None:
        async with belljar.Runtime("dev", state=jar.at) as runtime, runtime.session(model=FakeModel(answer)) as session:
            await session.execute("try:\n    rlm_query('?', 'text')\nexcept Exception:\n    FINAL('it went on')")

    # A read has a portion reserved, and this child reads nothing.
    monkeypatch.setattr(Ledger, "reserve", fail_once)
    with pytest.raises(LedgerUnavailable, match="the disk is full"):
        asyncio.run(main())
    assert {record.data["status"] for record in jar.records("run.finished")} == {"host_fault"}


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"tenant": "No Tenant"}, "tenant.invalid"),
        ({"context": Path("/no/such/file")}, ""),
        ({"model": "nobodys-model"}, ""),
    ],
)
def test_a_start_that_is_refused_stands_in_the_log(jar: Jar, options: dict[str, object], code: str) -> None:
    async def main() -> Refusal:
        async with belljar.Runtime(state=jar.at) as runtime:
            with pytest.raises(Refusal) as caught:
                await runtime.execute("print(1)", **options)  # type: ignore[arg-type]
            return caught.value

    refusal = asyncio.run(main())
    assert isinstance(refusal, InvalidInput | PolicyDenied)
    ends = [(record.data["status"], record.data["code"]) for record in jar.records("run.finished")]
    assert ends == [("denied", refusal.code)]
    assert refusal.code.startswith(code)


def test_what_a_session_is_refused_stands_in_the_log(jar: Jar) -> None:
    async def main() -> None:
        async with belljar.Runtime(state=jar.at) as runtime, runtime.session() as session:
            for code in ("#" * 2**20, "FINAL(1)", "print(2)"):
                with contextlib.suppress(PolicyDenied):
                    await session.execute(code)

    asyncio.run(main())
    refused = [(record.data["asked"], record.data["code"]) for record in jar.records("request.refused")]
    assert refused == [("execute", "limits.code"), ("execute", "session.ended")]
    assert jar.records("run.finished")[0].data["refused"] == 2


def test_a_program_hears_nothing_of_its_tenants_siblings(jar: Jar) -> None:
    policy = jar.policy('[quota.tenant]\nread = "64 KiB"\n')

    async def main() -> tuple[str, str]:
        async with belljar.Runtime(str(policy), state=jar.at) as runtime:
            text = "x" * 100_000
            await runtime.execute("print(len(context[:50_000]))", context=text, tenant="acme/one")
            code = "try:\n    context[:50_000]\nexcept Exception as error:\n    print(error)\nprint(budget())"
            other = await runtime.execute(code, context=text, tenant="acme/two")
            day = period_key("day", time.time())
            assert (await runtime._host._shared.ledger.spent("acme", day)).read_bytes > 0
            return other.stdout, str(other.error)

    said, _ = asyncio.run(main())
    assert "quota of the run's tenant is used up" in said
    assert "65536" not in said
    assert "acme" not in said
