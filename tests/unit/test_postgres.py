"""A journal that several hosts share: nothing is lost, doubled or overspent, whoever is cut off, stopped or killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from belljar.audit import AuditLog, records, runs, verify
from belljar.errors import AuditUnavailable, HostFault, InvalidInput, LedgerUnavailable, QuotaExceeded
from belljar.identity import RunId, Tenant
from belljar.journal import Draft, Job, Journal, open_journal
from belljar.journal.draft import StoreError
from belljar.journal.pgschema import VERSION
from belljar.journal.pgserver import Server, Unanswered
from belljar.journal.postgres import PostgresStore
from belljar.journal.tables import LIMITED, LIMITS, LimitsRow, RecordRow
from belljar.ledger import Amounts, Ledger, Limits
from belljar.recovery import recover
from tests.cutting import Cutter, Where
from tests.journals import OwnLog, meddle
from tests.postgres import Postgres, sql
from tests.unit.audit_events import made
from tests.waiting import in_time

NOON = 1795435200.0  # 2026-11-23 12:00 UTC
R1, R2 = RunId("r1"), RunId("r2")
ACME = Tenant("acme")
NONE = (None,) * len(LIMITED)
FREE = Limits("total", None, None, None, None, None)
ONE = Amounts(calls=1)
END_ALL = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
PROTOCOL = (196_608).to_bytes(4)  # 3.0
TOTAL = "FROM belljar.balances WHERE account = 'acme' AND key = 'total'"


def calls(limit: int) -> Limits:
    return Limits("total", limit, None, None, None, None)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    yield postgres.database()
    postgres.drop()


def through(url: str, cutter: Cutter) -> str:
    return url.partition("?")[0] + f"?host={cutter.folder}"


@pytest.fixture
def cutter(postgres: Postgres) -> Iterator[Cutter]:
    with Cutter(postgres.socket) as made:
        yield made


class Host:
    """A store, the journal in it, and the ledger in that, as one host has them."""

    def __init__(self, url: str, patience_s: float = 10.0, pulse_s: float = 15.0) -> None:
        self.store = PostgresStore(
            url, name="the journal", unavailable=LedgerUnavailable, patience_s=patience_s, pulse_s=pulse_s
        )
        self.journal = Journal(self.store, name="the journal")
        self.ledger = Ledger(self.journal, owner=self.store.host)
        self.asked: list[str] = []
        honest = self.store._server._call

        def counted(ask: Any) -> Any:
            self.asked.append("")
            return honest(ask)

        self.store._server._call = counted  # type: ignore[method-assign]

    async def open_run(self, run: RunId = R1, limits: Limits = FREE) -> None:
        await self.ledger.open_run(run, ACME, run_limits=FREE, tenant_limits=limits)

    @contextlib.contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """So long it waits for a new connection inside: what succeeds before and after has all the time it needs."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.journal, "_patience_s", seconds)
            yield

    async def spend(self, run: RunId = R1) -> None:
        await self.ledger.settle(await self.ledger.reserve(run, ONE, now=NOON, dispatched=True), ONE)

    async def recover(self, lease_s: float) -> int:
        """Close the runs of the hosts that are dead by now."""
        living = await self.journal.submit(Job(lambda draft: draft.living(lease_s)))
        assert living is not None
        return await self.ledger.recover(living.__contains__)

    async def warm(self) -> None:
        """From here on a round is one statement."""
        for _ in range(3):
            await self.spend()
        self.asked.clear()


@contextlib.asynccontextmanager
async def hosts(*urls: str, patience_s: float = 10.0) -> AsyncIterator[list[Host]]:
    made = [Host(url, patience_s) for url in urls]
    try:
        yield made
        for host in made:
            await host.ledger.aclose()
        assert await made[0].ledger.check_books() == []
    finally:
        for host in made:
            with contextlib.suppress(HostFault):
                await host.journal.aclose()


# -- rounds ----------------------------------------------------------------------------------------------------------


def test_a_round_of_who_writes_alone_is_one_trip(url: str) -> None:
    async def main() -> None:
        async with hosts(url) as [host]:
            await host.open_run()
            await host.warm()
            reservation = await host.ledger.reserve(R1, ONE, now=NOON)
            assert len(host.asked) == 1
            await host.ledger.settle(reservation, ONE)
            assert len(host.asked) == 2
            await host.ledger.remaining(R1, now=NOON)  # which writes nothing, and looks whether it knew the truth
            assert len(host.asked) == 3

    asyncio.run(main())


def test_a_pulse_corrects_a_clock_that_has_drifted(url: str) -> None:
    async def main() -> None:
        host = Host(url, pulse_s=0.05)
        host.store._ahead_s -= 3600
        async with in_time(60, "its clock is the server's"):
            while abs(host.ledger.now() - time.time()) > 60:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        await host.ledger.aclose()
        await host.journal.aclose()

    asyncio.run(main())


def test_what_another_host_wrote_counts_at_once(url: str) -> None:
    async def main() -> None:
        async with hosts(url, url) as [one, other]:
            await one.open_run(R1, calls(10))
            await other.open_run(R2, calls(10))
            await one.warm()  # 3 of 10
            for _ in range(2):
                await other.spend(R2)  # 5
            assert (await one.ledger.remaining(R1, now=NOON)).calls == 5
            await one.warm()  # 8
            for _ in range(2):
                await other.spend(R2)
            with pytest.raises(QuotaExceeded):
                await one.ledger.reserve(R1, ONE, now=NOON)
            assert await one.ledger.spent("acme", "total") == Amounts(calls=10)

    asyncio.run(main())


def test_what_was_only_lost_by_a_memory_that_did_not_hold_was_not_lost(url: str) -> None:
    def work(draft: Draft) -> None:
        if draft.get(LIMITS, "acme", "day") is None:
            raise LedgerUnavailable("it is not there")

    async def main() -> None:
        async with hosts(url, url) as [one, other]:
            await one.open_run()
            await one.warm()
            with pytest.raises(LedgerUnavailable):
                await one.journal.submit(Job(work))
            await other.journal.submit(Job(lambda draft: draft.put(LIMITS, LimitsRow("acme", "day", NONE))))
            one.journal.submit_soon(Job(work), lane="a")
            await one.journal.submit(Job(work), lane="a")

    asyncio.run(main())


def test_many_rounds_of_two_hosts_lose_nothing(url: str) -> None:
    async def main() -> None:
        async with hosts(url, url) as [one, other]:
            await one.open_run(R1, calls(60))
            await other.open_run(R2, calls(60))

            async def work(host: Host, run: RunId) -> int:
                done = 0
                for _ in range(40):
                    with contextlib.suppress(QuotaExceeded):
                        await host.spend(run)
                        done += 1
                return done

            assert sum(await asyncio.gather(work(one, R1), work(other, R2))) == 60
            assert await one.ledger.spent("acme", "total") == Amounts(calls=60)

    asyncio.run(main())


def test_rows_can_be_removed_and_put_in_one_round(url: str) -> None:
    def both(draft: Draft) -> None:
        draft.remove(LIMITS, "a", "day")
        draft.put(LIMITS, LimitsRow("b", "day", NONE))

    async def main() -> None:
        async with hosts(url) as [host]:
            await host.journal.submit(Job(lambda draft: draft.put(LIMITS, LimitsRow("a", "day", NONE))))
            await host.journal.submit(Job(both))
            assert sql(url, "SELECT account FROM belljar.limits") == [("b",)]

    asyncio.run(main())


# -- what is not as it should be -------------------------------------------------------------------------------------


def test_who_waits_too_long_for_another_host_is_told(url: str) -> None:
    """Only the wait for the lock is short here; all else has the time that it needs."""

    async def main() -> None:
        async with hosts(url) as [host]:
            await host.open_run()
            await meddle(host.journal, "SET lock_timeout = '50ms'")
            host.store._whole_s = 0.0  # and no round sets it to what is left of the patience
            other = await asyncpg.connect(url)
            for warm in (False, True):
                if warm:
                    await host.warm()
                async with other.transaction():
                    await other.execute("SELECT FROM belljar.head FOR UPDATE")
                    with pytest.raises(LedgerUnavailable, match=r"another host holds it for more than 10 s"):
                        await host.ledger.reserve(R1, ONE, now=NOON)
            await other.close()
            await host.spend()
            assert (await host.ledger.balance("acme", "total")).held == Amounts()

    asyncio.run(main())


@pytest.mark.parametrize("table", ["reservations", "balances", "records"])
def test_a_database_that_takes_a_row_for_nothing_admits_nothing(url: str, table: str) -> None:
    def append(draft: Draft) -> None:
        draft.append(RecordRow(draft.head()[0] + 1, "r1", b"{}", bytes(32)))

    async def main() -> None:
        async with hosts(url) as [host]:
            await host.open_run()
            await host.warm()
            sql(url, "CREATE FUNCTION public.quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
            sql(
                url,
                f"CREATE TRIGGER quiet BEFORE INSERT ON belljar.{table} FOR EACH ROW EXECUTE FUNCTION public.quiet()",
            )
            with pytest.raises(LedgerUnavailable, match="it did not take what was written"):
                await host.ledger.reserve(R1, ONE, now=NOON, beside=Job(append))
            sql(url, f"DROP TRIGGER quiet ON belljar.{table}")
            await host.spend()
            assert sql(url, "SELECT count(*) FROM belljar.records") == [(0,)]

    asyncio.run(main())


def test_a_record_is_neither_changed_nor_deleted(url: str) -> None:
    async def main() -> None:
        async with hosts(url):
            sql(url, "INSERT INTO belljar.records VALUES (1, 'r1', 'x', sha256('x'))")
            for statement in (
                "UPDATE belljar.records SET seq = 100",
                "DELETE FROM belljar.records",
                "TRUNCATE belljar.records",
            ):
                with pytest.raises(asyncpg.PostgresError, match="append-only"):
                    sql(url, statement)

    asyncio.run(main())


def refused(url: str) -> str:
    with pytest.raises(AuditUnavailable) as caught:
        open_journal(url, unavailable=AuditUnavailable)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (f"UPDATE belljar.head SET version = {VERSION + 1}", "a newer Belljar made it: update Belljar"),
        ("UPDATE belljar.head SET version = 0", "an older Belljar made it: migrate it"),
        ("UPDATE belljar.head SET version = 2", "already exists; its schema is not as we make it"),
        ("ALTER TABLE belljar.balances ADD COLUMN more text", "'column balances.more text' in its schema is not ours"),
        (
            "DROP TRIGGER records_are_not_changed ON belljar.records",
            "_changed O50' in its schema is gone",
        ),
        ("CREATE RULE quiet AS ON INSERT TO belljar.limits DO INSTEAD NOTHING", "'rule limits.quiet' in its schema"),
        ("ALTER TABLE belljar.balances SET UNLOGGED", "the 'unlogged balances' in its schema is not ours"),
        ("DELETE FROM belljar.head", "'row of head' in its schema is gone"),
        ("DROP TABLE belljar.head", "its schema belljar is something else; choose another database"),
    ],
)
def test_a_database_that_is_something_else_is_refused_in_one_line(url: str, prepare: str, words: str) -> None:
    asyncio.run(open_journal(url, unavailable=AuditUnavailable).aclose())
    sql(url, prepare)
    assert words in refused(url)


OLDER = Path(__file__).with_name("older_files")


@pytest.mark.parametrize("version", range(1, VERSION))
def test_a_database_of_an_older_version_is_migrated_and_goes_on(version: int, url: str) -> None:
    statements = OLDER.joinpath(f"journal-{version}.sql").read_text().split(";\n")
    for statement in statements:
        sql(url, statement)
    sql(url, "INSERT INTO belljar.hosts VALUES ('older', 0, now())")
    before = sql(url, "SELECT * FROM belljar.records ORDER BY seq")

    async def main() -> None:
        log = OwnLog(url)
        await log.append(RunId("new"), made("run.started", {}))
        await log.aclose()

    asyncio.run(main())
    assert sql(url, "SELECT version FROM belljar.head") == [(VERSION,)]
    assert sql(url, "SELECT * FROM belljar.records ORDER BY seq")[:-1] == before
    assert verify(url).problems == []
    # Whoever had the older one open is shut out: its next write finds that it is no host any more.
    assert sql(url, "SELECT name FROM belljar.hosts") == []


def test_who_opens_a_new_database_first_makes_it(url: str) -> None:
    made: list[Journal] = []
    threads = [
        threading.Thread(target=lambda: made.append(open_journal(url, unavailable=AuditUnavailable))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert sql(url, "SELECT count(*) FROM belljar.hosts") == [(4,)]
    for journal in made:
        asyncio.run(journal.aclose())
    assert sql(url, "SELECT count(*) FROM belljar.hosts") == [(0,)]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("postgresql://me:s%40fe@127.0.0.1:1/db", "the server cannot be reached"),
        ("postgresql://me:s%40fe@127.0.0.1:port/db", "the URL is not valid"),
        ("postgresql://me:s%40fe@[::1/db", "the URL is not valid"),
        ("postgresql://me@127.0.0.1:1/db?password=s%40fe", "the server cannot be reached"),
        ("mysql://me:s%40fe@127.0.0.1:1/db", "its URL has to begin with postgresql://"),
    ],
)
def test_no_message_has_the_password(bad: str, words: str) -> None:
    said = refused(bad)
    assert words in said
    assert "s%40fe" not in said
    assert "s@fe" not in said


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (
            "channel_binding=require",
            'unrecognized configuration parameter "channel_binding"; if the URL names it, leave',
        ),
        ("role=nobody", 'role "nobody" does not exist; if the URL says so, leave it out there'),
        ("sslmode=maybe", "the URL is not valid, or an option in it"),
        ("sslmode=verify-full&sslrootcert=/no/such/file", "and files that the URL names"),
    ],
)
def test_an_option_of_the_url_that_is_at_fault_is_said_to_be(url: str, option: str, words: str) -> None:
    assert words in refused(f"{url}&{option}")


def test_a_connection_that_the_server_ends_as_it_is_used_costs_no_host_its_journal(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client can be in the middle of hearing so, and has an error of its own for that."""

    async def main() -> None:
        async with hosts(url) as [host]:
            await host.open_run()
            await host.warm()
            server, before = host.store._server, (await host.ledger.balance("acme", "total")).used.calls
            wait, broken = server._wait, [1, 2]

            def halfway(work: Any, seconds: float) -> Any:
                if broken:
                    broken.pop()
                    work.close()
                    raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")
                return wait(work, seconds)

            monkeypatch.setattr(server, "_wait", halfway)
            await host.spend()
            assert not broken
            for _ in range(10):
                await asyncio.to_thread(sql, url, END_ALL)
                await host.spend()
            assert (await host.ledger.balance("acme", "total")).used.calls == before + 11
            assert await host.ledger.check_books() == []

    asyncio.run(main())


def test_a_pooler_that_takes_no_settings_is_said_to_be_one() -> None:
    server = Server("postgresql://127.0.0.1:1/db", patience_s=1.0)
    error = asyncpg.ProtocolViolationError("unsupported startup parameter: lock_timeout")
    assert server._advice(error).endswith(
        "lock_timeout; name the server itself in the URL, if there is a pooler before it"
    )
    server.close()


def test_a_connection_and_an_answer_are_waited_for_as_long_as_a_round_may(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(url, patience_s=30.0)
    server.connect()
    monkeypatch.setattr("belljar.journal.pgserver._SPARE_S", 0.1)
    server.patience_s = 0.1
    with pytest.raises(Unanswered, match=r"did not answer within 0\.2 s"):
        server.execute("SELECT pg_sleep(60)")
    server.close()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = Server(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/db", patience_s=30.0)
        server.patience_s = 0.2
        with pytest.raises(StoreError, match=r"did not answer within 0\.2 s"):
            server.connect()
        server.close()


def without_settings(message: bytes) -> bytes:
    """The first message of a client, which has its settings, without them: as a pooler that ignores them passes it."""
    if message[4:8] != PROTOCOL:
        return message
    names = message[8:].split(b"\0")
    said = dict(zip(names[::2], names[1::2], strict=False))
    kept = b"".join(b"%b\0%b\0" % (name, said[name]) for name in (b"user", b"database")) + b"\0"
    return (8 + len(kept)).to_bytes(4) + PROTOCOL + kept


def test_a_pooler_that_ignores_our_settings_is_refused_by_who_writes_and_who_reads(url: str, cutter: Cutter) -> None:
    """With it no wait for a lock would have an end, and a commit might not be on the disk."""
    asyncio.run(open_journal(url, unavailable=AuditUnavailable).aclose())
    assert verify(through(url, cutter)).ok
    cutter.change = without_settings
    said = "a session does not take our settings; name the server itself in the URL, if there is a pooler before it"
    assert refused(through(url, cutter)).endswith(said)
    with pytest.raises(AuditUnavailable, match=said):
        verify(through(url, cutter))


def test_a_session_with_the_statements_of_another_is_said_to_be_a_poolers() -> None:
    server = Server("postgresql://127.0.0.1:1/db", patience_s=1.0)
    said = server._advice(asyncpg.DuplicatePreparedStatementError("it already exists HINT: a long one"))
    assert said.startswith("the session has another one's statements; name the server itself")
    server.close()


def test_a_new_journal_is_made_only_where_every_character_can_be_kept(postgres: Postgres) -> None:
    """A text that the database cannot keep fails the transaction that it comes in, and with it what others write."""
    sql(postgres.url(), "CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        said = refused(postgres.url("latin1"))
        assert said.endswith("its encoding is LATIN1; create one with ENCODING 'UTF8' TEMPLATE template0")
        assert sql(postgres.url("latin1"), "SELECT to_regnamespace('belljar')") == [(None,)]
    finally:
        sql(postgres.url(), "DROP DATABASE latin1 WITH (FORCE)")


def test_a_session_that_lost_its_prepared_statements_is_left_and_nothing_is_lost(url: str) -> None:
    """Somebody between us and the server resets sessions: `DISCARD ALL`, in the middle of ours."""

    async def main() -> None:
        async with hosts(url) as [host]:
            await host.open_run()
            await host.warm()
            before = (await host.ledger.balance("acme", "total")).used.calls
            for number in range(1, 4):
                await asyncio.to_thread(host.store._server.execute, "DISCARD ALL")
                await host.spend()
                assert (await host.ledger.balance("acme", "total")).used.calls == before + number

    asyncio.run(main())


def test_a_database_that_is_not_there_is_named(url: str) -> None:
    assert "does not exist; create it or choose another" in refused(url.replace("belljar@/t", "belljar@/x"))


def test_what_has_to_be_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("postgres", "pgschema"):
        monkeypatch.setitem(sys.modules, f"belljar.journal.{module}", None)
        monkeypatch.delattr(f"belljar.journal.{module}")
    assert "install belljar[postgres]" in refused("postgresql://127.0.0.1:1/db")
    with pytest.raises(AuditUnavailable, match=r"install belljar\[postgres\]"):
        verify("postgresql://127.0.0.1:1/db")


def test_a_forked_child_leaves_its_parents_connection_alone(url: str) -> None:
    async def main() -> None:
        async with hosts(url) as [host]:
            await host.open_run()
            child = os.fork()
            if child == 0:
                with contextlib.suppress(BaseException):
                    host.journal.submit(Job(lambda _: None))
                os._exit(0)
            await asyncio.to_thread(os.waitpid, child, 0)
            await host.spend()

    asyncio.run(main())


# -- a commit in doubt -----------------------------------------------------------------------------------------------


def is_commit(message: bytes) -> bool:
    return b"COMMIT" in message


def anything(_: bytes) -> bool:
    return True


@pytest.mark.parametrize("where", ["before", "after", "late"])
@pytest.mark.parametrize("at", [anything, is_commit], ids=["one-statement", "commit"])
def test_a_connection_that_breaks_in_a_commit_neither_loses_nor_doubles_it(
    url: str, cutter: Cutter, where: Where, at: Callable[[bytes], bool]
) -> None:
    async def main() -> None:
        # The late COMMIT holds the lock until the server ends its transaction: half of the patience.
        async with hosts(through(url, cutter), patience_s=6.0) as [host]:
            await host.open_run()
            await host.warm()
            if at is is_commit:
                host.store._optimistic = False
            decided = host.store._was_committed

            def decide(number: int) -> bool:
                was_committed = decided(number)
                if where == "late":  # after it was decided, and before the round is run again
                    with contextlib.suppress(OSError):
                        cutter.deliver()
                return was_committed

            host.store._was_committed = decide  # type: ignore[method-assign]
            cutter.cut(where, at)
            reservation = await host.ledger.reserve(R1, ONE, now=NOON)
            assert cutter.cuts == 1
            assert (await host.ledger.balance("acme", "total")).held == ONE
            assert sql(
                url, "SELECT sum(held_calls) FROM belljar.balances WHERE key = 'total' AND account = 'acme'"
            ) == [(1,)]
            assert sql(url, "SELECT id FROM belljar.reservations WHERE state = 'held'") == [(reservation,)]
            await host.ledger.settle(reservation, ONE)

    asyncio.run(main())


def test_where_it_cannot_be_found_out_the_round_fails_and_its_end_is_owed(url: str, cutter: Cutter) -> None:
    async def main() -> None:
        async with hosts(through(url, cutter)) as [host]:
            await host.open_run()
            await host.warm()
            cutter.cut("after")
            real, cutter._server = cutter._server, Path("/nonexistent")
            message = "whether a commit took place cannot be found out"
            with pytest.raises(LedgerUnavailable, match=message), host.patience(1.0):
                await host.ledger.reserve(R1, ONE, now=NOON)
            cutter._server = real
            assert (await host.ledger.balance("acme", "total")).held == Amounts()
            assert sql(url, "SELECT count(*) FROM belljar.reservations WHERE state = 'released'") == [(1,)]

    asyncio.run(main())


@pytest.mark.parametrize("given_up", [False, True])
def test_a_commit_that_no_standby_has_is_not_acknowledged(postgres: Postgres, url: str, given_up: bool) -> None:
    """An operator who cancels the wait for the standby makes the server say that all is well."""
    waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"

    async def main() -> None:
        async with hosts(url, patience_s=3.0) as [host]:
            await host.open_run()
            await host.warm()
            sql(url, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            try:
                sql(url, "SELECT pg_reload_conf()")
                await asyncio.sleep(0.3)
                asking = asyncio.create_task(host.ledger.reserve(R1, ONE, now=NOON))
                if given_up:
                    await asyncio.to_thread(until, lambda: sql(url, waiting))
                with pytest.raises(LedgerUnavailable, match="whether a commit took place cannot be found out"):
                    await asking
            finally:
                sql(url, "ALTER SYSTEM RESET synchronous_standby_names")
                sql(url, "SELECT pg_reload_conf()")
            await asyncio.sleep(0.3)
            assert (await host.ledger.balance("acme", "total")).held == Amounts()

    asyncio.run(main())


def test_no_setting_of_the_user_hides_the_warning_that_a_commit_was_not_replicated(url: str) -> None:
    """It is a warning, and nothing else tells of it."""
    sql(url, "ALTER ROLE belljar SET client_min_messages = 'error'")
    try:
        with contextlib.closing(PostgresStore(url, name="the journal", unavailable=LedgerUnavailable)) as store:
            store._server.execute("DO $$ BEGIN RAISE WARNING 'not replicated'; END $$")
            assert store._server.warned
    finally:
        sql(url, "ALTER ROLE belljar RESET client_min_messages")


# -- the log ---------------------------------------------------------------------------------------------------------

STORY: list[tuple[str, str, dict[str, Any]]] = [
    ("r1", "run.started", {"tenant": "acme"}),
    ("r2", "run.started", {"tenant": "other"}),
    ("r1", "query.requested", {"action": "a1", "cell": 0}),
    ("r1", "query.completed", {"action": "a1"}),
    ("r1", "run.finished", {"status": "ok"}),
]


async def tell(where: Path | str, story: list[tuple[str, str, dict[str, Any]]]) -> None:
    clock = itertools.count(1000)
    log = OwnLog(where, clock=lambda: next(clock))
    for run, event, fields in story:
        await log.append(RunId(run), made(event, fields))
    await log.aclose()


def tamper(url: str, statement: str) -> None:
    sql(url, "ALTER TABLE belljar.records DISABLE TRIGGER USER")
    sql(url, statement)
    sql(url, "ALTER TABLE belljar.records ENABLE TRIGGER USER")


def test_a_log_is_the_same_bytes_on_a_server_as_in_a_file(url: str, tmp_path: Path) -> None:
    for where in (url, tmp_path / "audit.db"):
        asyncio.run(tell(where, STORY))
    assert list(records(url)) == list(records(tmp_path / "audit.db"))
    assert list(records(url, "r1")) == list(records(tmp_path / "audit.db", "r1"))
    assert runs(url) == runs(tmp_path / "audit.db")
    assert verify(url) == verify(tmp_path / "audit.db")
    assert verify(url).ok


def test_a_log_is_read_from_one_snapshot_in_the_middle_of_a_loop(url: str) -> None:
    async def main() -> None:
        log = OwnLog(url)
        await log.append(R1, made("run.started", {}))
        for _ in range(3):
            await log.append(R1, *(made("context.read", {}) for _ in range(400)))
        reading = records(url)
        assert next(reading).seq == 1
        await log.append(R1, made("run.finished", {"status": "ok"}))
        assert [record.seq for record in reading] == list(range(2, 1202))
        assert len(list(records(url, "r1"))) == 1202
        await log.aclose()

    asyncio.run(main())


def test_hosts_write_one_chain(url: str) -> None:
    async def main() -> None:
        logs = [OwnLog(url) for _ in range(3)]
        runs = [(log, RunId(f"r{number}-{n}")) for number, log in enumerate(logs) for n in range(3)]
        await asyncio.gather(*(log.append(run, made("run.started", {})) for log, run in runs))
        for log in logs:
            await log.aclose()

    asyncio.run(main())
    report = verify(url)
    assert (report.records, report.runs, report.problems) == (9, 9, [])


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE belljar.records SET body = body || ' ' WHERE seq = 3", "record 3: its bytes do not have the hash"),
        ("DELETE FROM belljar.records WHERE seq = 2", "record 3: expected record 2"),
        ("UPDATE belljar.records SET run = 'r2' WHERE seq = 3", "record 3: it is stored under another run"),
        ("CREATE RULE quiet AS ON DELETE TO belljar.records DO INSTEAD NOTHING", "the database is not as we make it"),
    ],
)
def test_what_was_tampered_with_is_found(url: str, statement: str, problem: str) -> None:
    asyncio.run(tell(url, STORY))
    tamper(url, statement)
    assert any(problem in line for line in verify(url).problems), verify(url).problems


def test_a_database_without_a_log_has_none(url: str) -> None:
    for read in (verify, runs, records):
        with pytest.raises(InvalidInput, match="there is no audit log in postgresql:///"):
            read(url)
    asyncio.run(tell(url, STORY))
    sql(url, "UPDATE belljar.head SET version = version + 1")
    with pytest.raises(AuditUnavailable, match="a newer Belljar made it: update Belljar"):
        verify(url)


# -- servers and hosts that go ---------------------------------------------------------------------------------------


def test_a_server_that_was_restarted_is_written_on(postgres: Postgres, url: str) -> None:
    async def main() -> None:
        async with hosts(url) as [host]:
            await host.open_run()
            await host.warm()
            postgres.stop()
            try:
                with pytest.raises(LedgerUnavailable, match="the server cannot be reached"), host.patience(1.0):
                    await host.ledger.reserve(R1, ONE, now=NOON)
            finally:
                postgres.start()
            await host.spend()
            await host.warm()
            postgres.stop("kill")
            postgres.start()
            await host.spend()  # nobody has noticed
            assert (await host.ledger.balance("acme", "total")).held == Amounts()

    asyncio.run(main())


@pytest.mark.slow
def test_a_standby_that_takes_over_is_written_on_and_has_all_that_was_acknowledged(postgres: Postgres) -> None:
    """`postgres` is only there so that this is skipped where that is."""

    async def main(primary: Postgres, standby: Postgres) -> None:
        async with hosts(f"{primary.url()},{standby.folder}", patience_s=5.0) as [host]:
            await host.open_run()
            await host.warm()
            reserved, ended = 3, asyncio.Event()

            async def work() -> None:
                nonlocal reserved
                while not ended.is_set():
                    with contextlib.suppress(LedgerUnavailable):  # what could not be settled is owed
                        reservation = await host.ledger.reserve(R1, ONE, now=NOON, dispatched=True)
                        reserved += 1
                        await host.ledger.settle(reservation, ONE)

            working = asyncio.create_task(work())
            await asyncio.to_thread(primary.stop, "kill")
            await asyncio.to_thread(sql, standby.url(), "SELECT pg_promote()")
            before = reserved
            async with in_time(60, "the standby was written on"):
                while reserved < before + 3:
                    await asyncio.to_thread(time.sleep, 0.05)
            ended.set()
            await working
            balance = await host.ledger.balance("acme", "total")
            assert (balance.used, balance.held) == (Amounts(calls=reserved), Amounts())

    with Postgres() as primary, Postgres(primary) as standby:
        sql(primary.url(), "ALTER SYSTEM SET synchronous_standby_names = '*'")  # the standby has copied its own
        sql(primary.url(), "SELECT pg_reload_conf()")
        replicated = "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'"
        until(lambda: sql(primary.url(), replicated))
        asyncio.run(main(primary, standby))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_commit_whose_answer_was_lost_in_a_failover_is_neither_lost_nor_doubled(
    postgres: Postgres, where: Where
) -> None:
    """The answer is lost, and before anybody can ask for it, the server is gone and its standby has taken over."""

    async def main(primary: Postgres, standby: Postgres, cutter: Cutter) -> None:
        url = primary.url().partition("?")[0]
        async with hosts(f"{url}?host={cutter.folder},{standby.folder}", patience_s=30.0) as [host]:
            await host.open_run()
            await host.warm()
            decided = host.store._was_committed

            def fail_over(number: int) -> bool:
                primary.stop("kill")
                (cutter.folder / primary.socket.name).unlink()  # nobody is there any more
                sql(standby.url(), "SELECT pg_promote()")
                return decided(number)

            host.store._was_committed = fail_over  # type: ignore[method-assign]
            cutter.cut(where, anything)
            reservation = await host.ledger.reserve(R1, ONE, now=NOON)
            assert cutter.cuts == 1
            held = "SELECT id FROM belljar.reservations WHERE state = 'held'"
            assert sql(standby.url(), held) == [(reservation,)]
            assert (await host.ledger.balance("acme", "total")).held == ONE
            await host.ledger.settle(reservation, ONE)
            assert (await host.ledger.balance("acme", "total")).used == Amounts(calls=4)

    with Postgres() as primary, Postgres(primary) as standby, Cutter(primary.socket) as cutter:
        sql(primary.url(), "ALTER SYSTEM SET synchronous_standby_names = '*'")  # the standby has copied its own
        sql(primary.url(), "SELECT pg_reload_conf()")
        replicated = "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'"
        until(lambda: sql(primary.url(), replicated))
        asyncio.run(main(primary, standby, cutter))


def test_a_host_that_was_taken_for_dead_writes_nothing_more(url: str) -> None:
    async def main() -> None:
        one = Host(url)
        async with hosts(url) as [other]:
            await one.open_run()
            await one.warm()
            sql(url, "DELETE FROM belljar.hosts WHERE name = $1", one.store.host)
            for _ in range(2):
                with pytest.raises(LedgerUnavailable, match="this host was taken for dead"):
                    await one.ledger.reserve(R1, ONE, now=NOON)
            assert await other.ledger.recover(lambda _: False) == 1
            assert (await other.ledger.balance("acme", "total")).held == Amounts()
        await one.journal.aclose()

    asyncio.run(main())


HOUR_S = 3600.0
AN_HOUR_AGO = "UPDATE belljar.hosts SET seen = now() - interval '61 minutes'"
RECENT = "SELECT name FROM belljar.hosts WHERE name = $1 AND seen > now() - interval '10 minutes'"


def test_who_lives_is_known_though_he_does_nothing(url: str) -> None:
    async def main() -> None:
        quick, slow = Host(url, pulse_s=0.05), Host(url, pulse_s=60.0)
        async with hosts(url) as [other]:
            await quick.open_run(R1)
            await slow.open_run(R2)
            assert await other.recover(HOUR_S) == 0
            sql(url, AN_HOUR_AGO)
            await asyncio.to_thread(until, lambda: sql(url, RECENT, quick.store.host))
            assert await other.recover(HOUR_S) == 1
            await quick.spend(R1)
            with pytest.raises(LedgerUnavailable, match="run r2 is closed"):
                await slow.spend(R2)
            with pytest.raises(LedgerUnavailable, match="this host was taken for dead"):
                await slow.open_run(RunId("r3"))
        for host in (quick, slow):
            await host.journal.aclose()

    asyncio.run(main())


def test_a_host_that_starts_while_another_looks_for_the_dead_is_not_taken_for_dead(url: str) -> None:
    """It opens a run after the other has seen who lives, and before it closes the runs of the dead."""

    async def main() -> None:
        async with hosts(url) as [host]:
            honest, late = host.ledger.recover, []

            async def later(*arguments: Any) -> int:
                late.append(Host(url))
                await late[0].open_run(R2)
                return await honest(*arguments)

            host.ledger.recover = later  # type: ignore[method-assign, assignment]
            assert await recover(host.journal, host.ledger, AuditLog(host.journal), None) == 0
            await late[0].spend(R2)
            await late[0].journal.aclose()

    asyncio.run(main())


def test_a_pulse_comes_also_between_rounds_that_write_nothing(url: str) -> None:
    async def main() -> None:
        host = Host(url, pulse_s=0.2)
        seen = "SELECT seen FROM belljar.hosts"
        before = sql(url, seen)
        async with in_time(60, "a pulse came"):
            while sql(url, seen) == before:
                await host.ledger.balance("acme", "total")
        await host.journal.aclose()

    asyncio.run(main())


CHILD = """
import asyncio, os, random, signal, sys, time
from belljar.errors import LedgerUnavailable, QuotaExceeded
from belljar.identity import RunId
from belljar.journal import Job
from belljar.journal.tables import LIMITS, LimitsRow
from belljar.ledger import Amounts
from tests.unit.test_postgres import NONE, NOON, ONE, Host, calls

async def settle(host, run):
    reservation = await host.ledger.reserve(run, ONE, now=NOON, dispatched=True)
    print("reserved", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    try:
        await host.ledger.settle(reservation, ONE)
        print("settled", flush=True)
    except LedgerUnavailable as error:
        print(error, flush=True)

async def stop_between_statements(host, run, half=False):
    times = []
    def work(draft):
        draft.query("SELECT run FROM runs WHERE run = ?", run)
        draft.put(LIMITS, LimitsRow("acme", "day", NONE))
        times.append(1)
        if len(times) == 1:
            if half:
                host.store._server._call(lambda connection: connection.prepare("SELECT 7"))
            print("stopping", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(1)  # by now it is stopped, or has been
    await host.journal.submit(Job(work))
    print(len(times), flush=True)

async def stop_inside_a_statement(host, run):
    await stop_between_statements(host, run, half=True)

async def spend(host, run):
    print("spending", flush=True)
    while True:
        try:
            reservation = await host.ledger.reserve(run, ONE, now=NOON, dispatched=True)
        except QuotaExceeded:
            await asyncio.sleep(0.005)
            continue
        await host.ledger.settle(reservation, Amounts(calls=random.randint(0, 1)))

async def main():
    url, run, work, patience_s = sys.argv[1:]
    host = Host(url, float(patience_s), pulse_s=0.2)
    await host.open_run(RunId(run), calls(400))
    await globals()[work](host, RunId(run))

asyncio.run(main())
"""


class Child:
    def __init__(self, url: str, run: str, work: str, patience_s: float = 10.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, url, run, work, str(patience_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self) -> None:
        assert self.process.stdin is not None
        print("go", file=self.process.stdin, flush=True)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        with self.process:
            pass


@pytest.mark.slow
def test_a_host_that_comes_back_after_its_runs_were_closed_does_not_settle_again(url: str) -> None:
    async def main() -> None:
        async with hosts(url) as [host]:
            with (
                Child(url, "stopped", "settle") as stopped,
                Child(url, "killed", "settle") as killed,
            ):
                assert (stopped.said(), killed.said()) == ("reserved", "reserved")
                stopped.process.send_signal(signal.SIGSTOP)
                killed.process.kill()
                closed = 0
                async with in_time(60, "both hosts were taken for dead"):
                    while closed < 2:  # a pulse may be on its way yet
                        sql(url, AN_HOUR_AGO)
                        closed += await host.recover(HOUR_S)
                balance = await host.ledger.balance("acme", "total")
                assert (balance.used, balance.held) == (Amounts(calls=2), Amounts())
                stopped.process.send_signal(signal.SIGCONT)
                stopped.tell()
                assert "double end" in stopped.said()
                assert await host.ledger.balance("acme", "total") == balance

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stop_between_statements", "stop_inside_a_statement"])
def test_a_host_that_is_stopped_inside_a_transaction_does_not_stop_the_others(url: str, how: str) -> None:
    async def main() -> None:
        async with hosts(url, patience_s=6.0) as [host]:
            await host.open_run()
            with Child(url, "stopped", how, 3.0) as stopped:
                assert stopped.said() == "stopping"
                await host.spend()  # after the other's transaction has been ended
                stopped.process.send_signal(signal.SIGCONT)
                assert stopped.said() == "2"  # it lost its transaction, and so it ran again

    asyncio.run(main())


def test_a_host_whose_patience_is_used_up_ends_the_transaction_of_one_that_is_stopped(url: str) -> None:
    """It waits for the lock for less long than a stopped one is left in peace, so not at its first attempt."""

    async def main() -> None:
        async with hosts(url, patience_s=6.0) as [host]:
            await host.open_run()
            with Child(url, "stopped", "stop_inside_a_statement", 3.0) as stopped:
                assert stopped.said() == "stopping"
                refused = list[str]()
                while len(refused) < 10:
                    host.journal._failing_since = -1e6  # long ago
                    try:
                        await host.spend()
                        break
                    except LedgerUnavailable as error:
                        refused.append(str(error))
                        assert "another host holds it for more than 2 s" in refused[-1]
                assert len(refused) < 10
                stopped.process.send_signal(signal.SIGCONT)
                assert stopped.said() == "2"

    asyncio.run(main())


@pytest.mark.slow
def test_eight_hosts_never_pass_the_limit_whoever_is_killed(url: str) -> None:
    async def main() -> None:
        async with hosts(url) as [host], contextlib.AsyncExitStack() as stack:
            children = [stack.enter_context(Child(url, f"c{number}", "spend")) for number in range(8)]
            for child in children:
                assert child.said() == "spending"
            for number in range(6):
                for _ in range(10):
                    ((total,),) = sql(
                        url,
                        "SELECT used_calls + held_calls FROM belljar.balances WHERE account = 'acme' AND key = 'total'",
                    )
                    assert total <= 400
                    await asyncio.sleep(0.02)
                children[number].process.kill()
            for child in children[6:]:
                child.process.kill()
            assert await host.ledger.recover(lambda _: False) == 8
            balance = await host.ledger.balance("acme", "total")
            assert balance.used.calls <= 400
            assert balance.held == Amounts()

    asyncio.run(main())
