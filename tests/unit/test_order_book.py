"""The orders of services: keys, what is written together, and what dead processes leave; on both stores."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from belljar.audit import AuditLog
from belljar.errors import AuditUnavailable, PolicyDenied, QuotaExceeded
from belljar.identity import RunId, Tenant
from belljar.jobs.book import OrderBook, Taken
from belljar.jobs.orders import (
    Asked,
    IdempotencyConflict,
    JsonContext,
    RegisteredContext,
    TextContext,
    digest_of,
)
from belljar.journal import Draft, Job, Journal, open_journal
from belljar.ledger import Amounts, Ledger, Limits
from belljar.lifecycle import new_run_id
from belljar.owners import Owner
from belljar.recovery import recover
from tests import journals
from tests.waiting import PATIENCE_S

T = TypeVar("T")
TENANT = Tenant("acme/a")
ONE, OTHER = (hashlib.sha256(text).digest() for text in (b"one", b"other"))
pytestmark = pytest.mark.usefixtures("store")


def drive(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, PATIENCE_S))


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Journal]:
    journal = open_journal(journals.place(path), unavailable=AuditUnavailable)
    try:
        yield journal
    finally:
        await journal.aclose()


def book_of(journal: Journal, owner: str = "one", kept_s: float = 1000.0) -> OrderBook:
    return OrderBook(journal, owner=owner, kept_s=kept_s)


NOTHING: Job[None] = Job(lambda _: None)


async def take(
    book: OrderBook,
    idem: str = "",
    digest: bytes = ONE,
    *,
    tenant: Tenant = TENANT,
    retries: str | None = None,
    admission: Job[None] = NOTHING,
) -> Taken:
    row = book.new(new_run_id(), tenant, "key:x", idem, digest)
    return await book.take(row, admission, retries=retries)


def test_the_same_key_and_request_give_the_same_order_and_another_request_is_refused(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path / "j.db") as journal:
            book = book_of(journal)
            first = await take(book, "k")
            again = await take(book, "k")
            assert (first.is_new, again.is_new) == (True, False)
            assert again.row == first.row
            with pytest.raises(IdempotencyConflict):
                await take(book, "k", OTHER)
            with pytest.raises(IdempotencyConflict):
                await book.known(TENANT, "k", OTHER)
            assert (await take(book, "k", OTHER, tenant=Tenant("acme/b"))).is_new  # a key is a tenant's own
            assert (await take(book, "k2")).is_new
            assert [(await take(book)).is_new for _ in range(2)] == [True, True]  # without a key each is new

    drive(go())


def test_two_at_once_make_one_order_also_across_processes(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path / "j.db") as one, opened(tmp_path / "j.db") as other:
            books = book_of(one), book_of(other, "two")
            found = await asyncio.gather(*(take(books[n % 2], "k") for n in range(20)))
            assert sum(taken.is_new for taken in found) == 1
            assert len({taken.row.run for taken in found}) == 1

    drive(go())


def test_a_retry_of_an_interrupted_order_makes_one_that_it_names(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path / "j.db") as journal:
            book = book_of(journal)
            first = (await take(book, "k")).row
            assert not (await take(book, "k", retries=first.run)).is_new  # it is not interrupted yet
            await book.end([first.run], "interrupted")
            found = await asyncio.gather(*(take(book, "k", retries=first.run) for _ in range(5)))
            (new,) = {taken.row.run for taken in found}
            assert sum(taken.is_new for taken in found) == 1
            assert new != first.run
            old = await book.row(first.run)
            assert old is not None
            assert (old.state, old.again) == ("interrupted", new)
            with pytest.raises(IdempotencyConflict):
                await take(book, "k", OTHER, retries=first.run)
            await book.end([new], "interrupted")
            known = await book.known(TENANT, "k", ONE)
            assert known is not None
            assert known.run == new  # the last of the chain is retried next

    drive(go())


def test_an_order_that_its_quota_does_not_admit_is_not_written_and_its_key_is_free(tmp_path: Path) -> None:
    def refuse(_: Draft) -> None:
        raise QuotaExceeded("nothing is left", code="quota.tenant.calls")

    async def go() -> None:
        async with opened(tmp_path / "j.db") as journal:
            book = book_of(journal)
            with pytest.raises(QuotaExceeded):
                await take(book, "k", admission=Job(refuse))
            assert await book.known(TENANT, "k", ONE) is None
            assert (await take(book, "k", OTHER)).is_new
            assert not (await take(book, "k", OTHER, admission=Job(refuse))).is_new  # what is known costs nothing

    drive(go())


def test_a_run_begins_only_where_its_order_still_waits(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path / "j.db") as journal:
            book = book_of(journal)
            runs = [(await take(book)).row.run for _ in range(3)]
            await journal.submit(book.begins(runs[0]))
            await book.ask_to_cancel(runs[1])
            await book.end([runs[2]], "cancelled")
            for run in runs[1:]:
                with pytest.raises(PolicyDenied, match="cancelled"):
                    await journal.submit(book.begins(run))
            rows = [await book.row(run) for run in runs]
            assert [row and row.state for row in rows] == ["running", "cancelling", "cancelled"]
            assert await book.cancelling() == [runs[1]]
            assert await book_of(journal, "two").cancelling() == []
            assert await book.settle(runs[1], "cancelled") == "cancelled"
            assert await book.settle(runs[1], "interrupted") == "cancelled"  # an end is an end
            assert await book.cancelling() == []

    drive(go())


def test_orders_are_forgotten_once_their_keys_are_but_not_while_they_are_open(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path / "j.db") as journal:
            book, soon = book_of(journal), book_of(journal, kept_s=-10.0)
            ended, waiting = (await take(book, "k")).row.run, (await take(book, "open")).row.run
            await book.end([ended], "ok")
            assert await book.prune() == 0
            assert await soon.known(TENANT, "k", OTHER) is None  # it is over, pruned or not
            assert await soon.known(TENANT, "open", ONE) is not None
            assert await soon.prune() == 1
            assert await book.row(ended) is None
            assert await book.row(waiting) is not None

    drive(go())


def test_the_orders_of_a_dead_owner_are_interrupted_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("belljar.recovery.LEASE_S", 0.0)

    async def go() -> None:
        async with opened(tmp_path / "j.db") as journal:
            if journal.host is None:
                owner: Owner | None = Owner(tmp_path / "owners")
                assert owner is not None
                name, dead = owner.name, "1234-dead"
            else:
                owner, name, dead = None, journal.host, "host-dead"
            ours, theirs = book_of(journal, name), book_of(journal, dead)
            live = (await take(ours)).row.run
            left = [(await take(theirs, idem)).row.run for idem in ("", "a", "b")]
            await journal.submit(theirs.begins(left[1]))
            await theirs.end([left[2]], "ok")
            await recover(journal, Ledger(journal, owner=name), AuditLog(journal), owner)
            rows = [await ours.row(run) for run in (live, *left)]
            assert [row and row.state for row in rows] == ["queued", "interrupted", "interrupted", "ok"]
            if owner is not None:
                owner.close()

    drive(go())


def test_admission_asks_what_is_used_at_each_level_and_not_what_is_held(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path / "j.db") as journal:
            ledger = Ledger(journal, owner="one")
            free = Limits("total", None, None, None, None, None)
            await ledger.change_limits(Tenant("acme"), {"day": {"calls": 2}})
            asked, now = Amounts(calls=1, wall_ms=1), ledger.now()
            run = RunId("r1")
            await ledger.open_run(run, TENANT, run_limits=free, tenant_limits=free)
            held = [await ledger.reserve(run, Amounts(calls=1), now=now) for _ in range(2)]
            admission = ledger.admit_job(TENANT, asked, tenant_limits=free, now=now)
            await journal.submit(admission)
            for one in held:
                await ledger.settle(one, Amounts(calls=1))
            with pytest.raises(QuotaExceeded) as caught:
                await journal.submit(admission)
            refusal = caught.value
            assert (refusal.code, refusal.scope, refusal.period) == ("quota.tenant.calls", "acme", "day")
            assert (refusal.limit, refusal.used, refusal.held) == (2, 2, 0)
            assert refusal.resets_at is not None
            await journal.submit(ledger.admit_job(Tenant("other"), asked, tenant_limits=free, now=now))
            await journal.submit(ledger.admit_job(TENANT, Amounts(wall_ms=1), tenant_limits=free, now=now))
            await ledger.close_run(run)

    drive(go())


def test_a_request_has_one_digest_however_it_is_written_and_another_if_anything_differs() -> None:
    contexts: dict[str, Any] = {"context": TextContext("a"), "more": JsonContext({"x": 1, "y": [2]})}
    asked = Asked(question="q", model="m", contexts=contexts)
    same = Asked(
        question="q",
        model="m",
        policy="standard",
        contexts={"more": JsonContext({"y": [2], "x": 1}), "context": TextContext("a")},
    )
    assert digest_of(asked) == digest_of(same)
    others = [
        Asked(question="q2", model="m", contexts=contexts),
        Asked(question="q", model="m2", contexts=contexts),
        Asked(question="q", model="m", sub_model="m", contexts=contexts),
        Asked(question="q", model="m", contexts=contexts, answer_schema={"type": "string"}),
        Asked(question="q", model="m", contexts={**contexts, "context": TextContext("b")}),
        Asked(question="q", model="m", contexts={**contexts, "context": RegisteredContext("a")}),
        Asked(question="q", model="m", contexts={**contexts, "context": JsonContext(["a"])}),
        Asked(question="q", model="m", contexts={"context": TextContext("a")}),
    ]
    assert len({digest_of(one)[0] for one in (asked, *others)}) == 1 + len(others)


def test_what_ended_lately_is_found_and_what_a_dead_process_left_apart(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path / "j.db") as journal:
            book = book_of(journal)
            began = int(journal.now())
            still_open, ended, lost = [(await take(book)).row.run for _ in range(3)]
            await book.end([ended], "ok")
            await book.end([lost], "interrupted")
            found = await book.lately(began, interrupted=False, limit=10)
            assert sorted(run for run, _ in found) == sorted([ended, lost])
            assert all(began <= at <= journal.now() for _, at in found)
            assert [run for run, _ in await book.lately(began, interrupted=True, limit=10)] == [lost]
            assert len(await book.lately(began, interrupted=False, limit=1)) == 1
            assert await book.lately(int(journal.now()) + 10, interrupted=False, limit=10) == []
            assert still_open not in dict(found)

    drive(go())
