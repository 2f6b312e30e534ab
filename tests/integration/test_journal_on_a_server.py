"""A state whose log and ledger are in PostgreSQL, as users have it: runs, quotas, verification, and hosts that die."""

from __future__ import annotations

import asyncio
import functools
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import belljar
from belljar.audit import records, verify
from tests.integration.support import Jar
from tests.postgres import Postgres, sql
from tests.waiting import until

ASKS = "print(llm_query('how many?'))\nFINAL('done')"
HANGS = "import time\nprint(context[0:1])\ntime.sleep(300)"


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    yield postgres.database()
    postgres.drop()


def model(jar: Jar) -> str:
    return jar.script(rest='[[reply]]\nwhen = "how many"\ntext = "three"\n')


def test_a_run_its_log_and_its_quotas_are_on_the_server(jar: Jar, url: str) -> None:
    home = {"BELLJAR_JOURNAL": url}
    done = jar("quota", "set", "acme", "--calls", "1/day", env=home)
    assert (done.code, done.stderr) == (0, "")
    program = jar.file("ask.py", ASKS)
    options = ("--sub-model", model(jar), "--tenant", "acme/research", "--language", "python", "--json")
    first = jar("exec", str(program), *options, env=home)
    assert (first.code, first.result["answer"]) == (0, "done"), first.stderr
    second = jar("exec", str(program), *options, env=home)
    assert (second.code, second.result["limit"]["code"]) == (5, "quota.tenant.calls")
    assert not jar.journal.exists()

    assert jar("audit", "verify", env=home).code == 0
    assert jar("quota", "check", env=home).code == 0
    assert first.result["run"] in jar("audit", "ls", env=home).stdout
    told = json.loads(jar("quota", "explain", second.result["run"], "--json", env=home).stdout)
    assert [(one["scope"], one["period"]) for one in told["refusals"]] == [("acme", "day")]
    assert len([record for record in records(url) if record.event == "query.completed"]) == 1


def test_the_url_can_be_the_state(jar: Jar, url: str) -> None:
    program = jar.file("one.py", "FINAL(1)")
    done = jar("exec", str(program), "--json", "--state", url)
    assert (done.code, done.result["answer"]) == (0, 1), done.stderr
    assert verify(url).problems == []


def test_what_a_killed_host_left_is_settled_by_another_when_its_lease_is_over(
    jar: Jar, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_one(jar, url)
    monkeypatch.setattr("belljar.recovery.LEASE_S", 0.0)

    async def next_host() -> None:
        async with belljar.Runtime(state=url, environ={"BELLJAR_HOME": str(jar.state.root)}):
            pass

    asyncio.run(next_host())
    assert _records(url)[-1] == "run.abandoned"
    assert verify(url).problems == []
    ((held,),) = sql(url, "SELECT count(*) FROM belljar.reservations WHERE state IN ('held', 'dispatched')")
    assert held == 0


def kill_one(jar: Jar, url: str) -> None:
    """A host of its own, in the middle of a run."""
    text, program = jar.file("text.txt", "abc"), jar.file("hangs.py", HANGS)
    arguments = ("exec", program, "--context", text, "--language", "python")
    running = jar.start(*arguments, env={"BELLJAR_JOURNAL": url})
    until(lambda: "context.read" in _records(url), what="the program runs")
    running.signal(signal.SIGKILL)
    running.wait()


def test_a_host_that_stays_up_settles_what_another_left_when_its_lease_is_over(
    jar: Jar, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("belljar.recovery.LOOK_S", 0.05)

    async def main() -> None:
        async with belljar.Runtime(state=url, environ={"BELLJAR_HOME": str(jar.state.root)}) as runtime:
            ours = sql(url, "SELECT name FROM belljar.hosts")
            async with runtime.session() as session:
                await asyncio.to_thread(kill_one, jar, url)
                assert len(sql(url, "SELECT FROM belljar.hosts")) == 2
                # An hour without a sign of life, by the server's clock.
                old = "UPDATE belljar.hosts SET seen = now() - interval '1 hour' WHERE name <> $1"
                sql(url, old, ours[0][0])
                settled = functools.partial(until, lambda: "run.abandoned" in _records(url), what="it was settled")
                await asyncio.to_thread(settled)
                assert (await session.execute("print(1)")).stdout == "1\n"
            assert sql(url, "SELECT name FROM belljar.hosts") == ours

    asyncio.run(main())
    assert (_records(url).count("run.abandoned"), _records(url)[-1]) == (1, "run.finished")
    assert verify(url).problems == []


def _records(url: str) -> list[str]:
    try:
        return [record.event for record in records(url)]
    except belljar.InvalidInput:  # nobody has opened it yet
        return []


def test_a_server_that_is_not_there_is_our_fault_and_nothing_is_sent(jar: Jar, tmp_path: Path) -> None:
    away = f"postgresql://belljar:secret-word@/none?host={tmp_path}"
    home = {"BELLJAR_JOURNAL": away}
    done = jar("exec", str(jar.file("ask.py", ASKS)), "--sub-model", model(jar), "--json", env=home)
    assert done.code == 8
    assert done.document["status"] == "host_fault"
    assert "secret-word" not in done.stdout + done.stderr
