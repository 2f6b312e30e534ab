"""API keys: what is made, checked, replaced and revoked, on both stores, and what of it stands where."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from belljar.access import ApiKeys, Principal, Role, apikeys
from belljar.access.apikeys import BELIEVED_S
from belljar.audit.events import AccessChanged
from belljar.audit.read import parse
from belljar.errors import AccessDenied, AccessForbidden, AuditUnavailable, InvalidInput
from belljar.identity import Tenant
from belljar.journal.tables import API_KEYS, ApiKeyRow
from tests.journals import OwnLog, meddle
from tests.waiting import PATIENCE_S, in_time

ACME = Tenant("acme")
NOW = datetime(2026, 12, 1, tzinfo=UTC)
on_each_store = pytest.mark.usefixtures("store")


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = NOW.timestamp()

    def __call__(self) -> float:
        return self.now


class Keys(ApiKeys):
    """Keys with a journal and clocks of their own."""

    def __init__(self, path: Path | None, clock: Clock, age_max: timedelta | None = None) -> None:
        self.log = OwnLog(path)
        self.clock = clock
        super().__init__(self.log.journal, self.log, age_max=age_max, clock=clock, steady=clock)

    async def written(self) -> None:
        """Wait for what nobody waits for."""
        await self.log.journal.flush()
        await asyncio.sleep(0)

    async def records(self) -> list[AccessChanged]:
        found = await meddle(self.log.journal, "SELECT seq, body FROM records WHERE run = 'host.access' ORDER BY seq")
        events = [parse(seq, bytes(body)).typed for seq, body in found]
        return [event for event in events if isinstance(event, AccessChanged)]


@asynccontextmanager
async def opened(path: Path | None = None, clock: Clock | None = None, **options: timedelta) -> AsyncIterator[Keys]:
    keys = Keys(path, Clock() if clock is None else clock, **options)
    try:
        yield keys
    finally:
        await keys.log.aclose()


async def told(caplog: pytest.LogCaptureFixture, words: str) -> None:
    async with in_time(PATIENCE_S, f"somebody was told: {words}"):
        while words not in caplog.text:  # noqa: ASYNC110 (nothing sets an event)
            await asyncio.sleep(0.01)


async def refused(keys: ApiKeys, text: str) -> str:
    with pytest.raises(AccessDenied) as caught:
        await keys.check(text)
    assert text not in str(caught.value) or not text
    return caught.value.code


@on_each_store
def test_a_key_is_shown_once_and_says_who_has_it(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path / "audit.db") as keys:
            info, text = await keys.make(ACME, "runner", label="nightly", by="user:root")
            assert re.fullmatch(r"bj_[0-9a-f]{16}_[A-Za-z0-9_-]{43}", text)
            assert text.startswith(f"bj_{info.id}_")
            assert (info.label, info.tenant, info.role, info.state) == ("nightly", "acme", "runner", "active")
            assert (info.since, info.until, info.ends_at, info.used_at) == (NOW, None, None, None)
            assert await keys.check(text) == Principal(f"key:{info.id}", ACME, "runner")
            assert await keys.records() == [
                AccessChanged(by="user:root", key=info.id, what="made", tenant="acme", role="runner")
            ]

    asyncio.run(go())


def test_the_secret_is_on_the_disk_in_no_form(tmp_path: Path, store: str, request: pytest.FixtureRequest) -> None:
    folder = tmp_path if store == "sqlite" else request.getfixturevalue("postgres").folder

    def contents(folder: Path) -> list[bytes]:
        return [path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_socket()]

    async def go() -> None:
        async with opened(tmp_path / "audit.db") as keys:
            info, text = await keys.make(None, "admin", label="first", by="user:root")
            keys.clock.now += 1
            _, other = await keys.make(ACME, "runner", by="user:root")
            await keys.check(text)
            await refused(keys, text[:-1] + ("A" if text[-1] != "A" else "B"))
            await keys.rotate((await keys.ls())[1].id, by="user:root")
            await keys.written()
            rows = await meddle(keys.log.journal, "SELECT * FROM api_keys ORDER BY id")
            stored = b"".join(repr(tuple(row)).encode() for row in rows)
            files = contents(folder)
            assert any(info.id.encode() in data for data in files)
            for secret in (text, text[20:], other, other[20:], text[20:].encode().hex()):
                assert all(secret.encode() not in data for data in (*files, stored))
            # What is there, is the hash.
            assert bytes(rows[0][1]) == hashlib.sha256(text.encode()).digest()

    asyncio.run(go())


@on_each_store
def test_whatever_is_shown_that_is_no_key_is_refused(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path / "audit.db") as keys:
            info, text = await keys.make(ACME, "runner", by="user:root")
            _, other = await keys.make(ACME, "runner", by="user:root")
            wrong = text[:-2] + ("AA" if text[-2:] != "AA" else "BB")
            mixed = f"bj_{info.id}_{other[20:]}"
            for shown in ("", "bj_", text[:-1], f"{text}A", f" {text}", text.upper(), wrong, mixed, f"{text}\n"):
                assert await refused(keys, shown) == "access.unknown"
            await keys.check(text)
            assert await refused(keys, wrong) == "access.unknown"  # also when the row is remembered

    asyncio.run(go())


@given(
    st.text() | st.text(alphabet=st.characters(codec="latin-1")) | st.from_regex(r"bj_[0-9a-f]{16}_[A-Za-z0-9_-]{43}")
)
@example("bj_0123456789abcdef_" + "\ud800" * 43)
@example("bj_" + "٣" * 16 + "_" + "A" * 43)
def test_any_text_is_refused_as_unknown(text: str) -> None:
    async def go() -> None:
        async with opened() as keys:
            await keys.make(ACME, "runner", by="user:root")
            assert not keys.knows(text)
            with pytest.raises(AccessDenied) as caught:
                await keys.check(text)
            assert caught.value.code == "access.unknown"

    asyncio.run(go())


@on_each_store
def test_a_key_expires_by_the_clock_that_its_hosts_share(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path / "audit.db") as keys:
            info, text = await keys.make(ACME, "runner", until=NOW + timedelta(seconds=60), by="user:root")
            assert info.until == NOW + timedelta(seconds=60)
            keys.clock.now += 59.9
            await keys.check(text)
            keys.clock.now += 0.1
            # To the second, also while its row is believed.
            assert await refused(keys, text) == "access.expired"
            assert (await keys.get(info.id)).state == "expired"
            keys.clock.now -= 10  # somebody sets the clock back
            await keys.check(text)

    asyncio.run(go())


def test_two_hosts_with_clocks_of_their_own_go_by_the_journals() -> None:
    async def go() -> None:
        log = OwnLog(None)
        keys = ApiKeys(log.journal, log)
        assert keys._clock == log.journal.now
        await log.aclose()

    asyncio.run(go())


@on_each_store
def test_a_revoked_key_is_refused_at_once_here_and_soon_elsewhere(tmp_path: Path) -> None:
    async def go() -> None:
        clock = Clock()
        async with opened(tmp_path / "audit.db", clock) as here, opened(tmp_path / "audit.db", clock) as there:
            info, text = await here.make(ACME, "runner", by="user:root")
            await here.check(text)
            await there.check(text)
            await here.written()
            await there.written()
            gone = await here.revoke(info.id, by="user:root")
            assert (gone.state, gone.ends_at) == ("ended", NOW)
            assert await refused(here, text) == "access.revoked"
            clock.now += BELIEVED_S - 0.1
            await there.check(text)  # the bound is what is promised: it is believed until then
            clock.now += 0.1
            assert await refused(there, text) == "access.revoked"
            # Again, it stays as it was.
            assert await there.revoke(info.id, by="user:root") == gone
            assert [record.what for record in await here.records()] == ["made", "revoked"]

    asyncio.run(go())


@on_each_store
def test_a_key_that_another_host_made_is_taken(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path / "audit.db") as here, opened(tmp_path / "audit.db") as there:
            assert await there.ls() == []
            _, text = await here.make(ACME, "auditor", by="user:root")
            assert (await there.check(text)).role == "auditor"
            assert len(await there.ls()) == 1

    asyncio.run(go())


@on_each_store
def test_a_replaced_key_ends_after_the_overlap(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path / "audit.db") as keys:
            life = timedelta(days=30)
            old, text = await keys.make(ACME, "runner", label="x", until=NOW + life, by="user:root")
            keys.clock.now += 86_400
            new, new_text = await keys.rotate(old.id, by="user:root", overlap_s=600)
            later = NOW + timedelta(days=1)
            assert (new.label, new.tenant, new.role, new.since, new.until) == (
                "x",
                "acme",
                "runner",
                later,
                later + life,
            )
            assert (await keys.get(old.id)).ends_at == later + timedelta(seconds=600)
            keys.clock.now += 599
            assert (await keys.check(text)).name == f"key:{old.id}"
            assert (await keys.check(new_text)).name == f"key:{new.id}"
            keys.clock.now += 1
            assert await refused(keys, text) == "access.revoked"
            await keys.check(new_text)
            with pytest.raises(InvalidInput, match="no longer in force") as caught:
                await keys.rotate(old.id, by="user:root")
            assert caught.value.code == "key.ended"
            assert [(record.what, record.key, record.next) for record in await keys.records()] == [
                ("made", old.id, None),
                ("rotated", old.id, new.id),
            ]

    asyncio.run(go())


def test_replaced_at_once_it_ends_at_once_and_twice_is_twice() -> None:
    async def go() -> None:
        async with opened() as keys:
            old, text = await keys.make(ACME, "runner", until=NOW + timedelta(days=9), by="user:root")
            first, _ = await keys.rotate(old.id, by="user:root", overlap_s=60)
            # Whoever lost the first one's text asks again: it lives as long, and the overlap gets no longer.
            second, second_text = await keys.rotate(old.id, by="user:root", overlap_s=3600)
            assert (first.until, second.until) == (old.until, old.until)
            assert (await keys.get(old.id)).ends_at == NOW + timedelta(seconds=60)
            await keys.rotate(second.id, by="user:root")
            assert await refused(keys, second_text) == "access.revoked"
            await keys.check(text)
            for seconds in (-1, 31 * 86_400):
                with pytest.raises(InvalidInput) as caught:
                    await keys.rotate(old.id, by="user:root", overlap_s=seconds)
                assert caught.value.code == "key.overlap"

    asyncio.run(go())


@on_each_store
def test_when_a_key_was_used_is_written_once_a_minute_and_not_waited_for(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path / "audit.db") as keys:
            info, text = await keys.make(ACME, "runner", by="user:root")
            assert (await keys.get(info.id)).used_at is None
            keys.clock.now += 61
            for _ in range(50):
                await keys.check(text)
                keys.clock.now += 1
            await keys.written()
            assert (await keys.get(info.id)).used_at == NOW + timedelta(seconds=60)
            writes = await changes(keys)
            await keys.check(text)
            await keys.written()
            assert await changes(keys) == writes
            keys.clock.now += 60
            await keys.check(text)
            await keys.written()
            assert (await keys.get(info.id)).used_at == NOW + timedelta(seconds=120)

    async def changes(keys: Keys) -> int:
        """How many rows this connection, or the server, has changed."""
        if keys.log.journal.host is None:
            ((count,),) = await meddle(keys.log.journal, "SELECT total_changes()")
        else:
            ((count,),) = await meddle(keys.log.journal, "SELECT round FROM belljar.head")
        return int(count)

    asyncio.run(go())


def test_a_use_that_cannot_be_written_keeps_nobody_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        async with opened(tmp_path / "audit.db") as keys:
            _, text = await keys.make(ACME, "runner", label="x" * 200, by="user:root")
            await keys.check(text)
            await keys.written()
            await meddle(
                keys.log.journal, "CREATE TRIGGER no BEFORE UPDATE ON api_keys BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
            keys.clock.now += 61
            keys._rows.clear()
            await keys.check(text)
            await told(caplog, "could not be written")
            await meddle(keys.log.journal, "DROP TRIGGER no")
            keys.clock.now += 61
            await keys.check(text)
            await keys.written()
            assert (await keys.ls())[0].used_at == NOW + timedelta(seconds=120)

    asyncio.run(go())


def test_without_its_journal_nobody_is_let_in_and_nothing_changes(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path / "audit.db") as keys:
            info, text = await keys.make(ACME, "runner", by="user:root")
            await keys.check(text)
            await keys.written()
            (tmp_path / "audit.db").rename(tmp_path / "elsewhere.db")
            keys.clock.now += BELIEVED_S
            for act in (keys.check(text), keys.revoke(info.id, by="user:root"), keys.ls()):
                with pytest.raises(AuditUnavailable):
                    await act
            (tmp_path / "elsewhere.db").rename(tmp_path / "audit.db")

    asyncio.run(go())


@on_each_store
def test_the_first_key_is_made_once(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path / "audit.db") as here, opened(tmp_path / "audit.db") as there:
            made = await asyncio.gather(*(keys.make_first(by="serve") for keys in (here, there) * 3))
            ((info, text),) = [one for one in made if one is not None]
            assert (info.role, info.tenant) == ("admin", None)
            await here.check(text)
            await here.revoke(info.id, by="user:root")
            assert await there.make_first(by="serve") is not None  # nobody has one any more
            assert await there.make_first(by="serve") is None

    asyncio.run(go())


@on_each_store
def test_a_tenants_keys_are_those_of_its_subtree_in_pages(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path / "audit.db") as keys:
            for tenant in (None, "acme", "acme/x", "acme/x/y", "acme2", "acm", "acme-x", "acme.x"):
                keys.clock.now += 1
                await keys.make(Tenant(tenant) if tenant else None, "auditor", by="user:root")
            assert [one.tenant for one in await keys.ls(ACME)] == ["acme", "acme/x", "acme/x/y"]
            assert [one.tenant for one in await keys.ls(Tenant("acme/x"))] == ["acme/x", "acme/x/y"]
            every = await keys.ls()
            assert [one.tenant for one in every[:3]] == [None, "acme", "acme/x"]
            first = await keys.ls(limit=3)
            assert [*first, *await keys.ls(after=first[-1].id, limit=100_000)] == every
            assert await keys.ls(limit=-5) == every[:1]

    asyncio.run(go())


@on_each_store
def test_there_are_so_many_keys_and_those_that_ended_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apikeys, "KEYS_MAX", 3)

    async def go() -> None:
        async with opened(tmp_path / "audit.db") as keys:
            made = [(await keys.make(Tenant(f"acme/{n}"), "runner", by="user:root"))[0] for n in range(3)]
            await keys.make(Tenant("acme2"), "runner", by="user:root")
            for _ in range(2):
                await keys.make(None, "admin", by="user:root")
            with pytest.raises(InvalidInput, match="acme has 3 keys in force") as caught:
                await keys.make(ACME, "runner", by="user:root")
            assert caught.value.code == "key.too_many"
            await keys.revoke(made[1].id, by="user:root")
            new, _ = await keys.make(ACME, "runner", by="user:root")
            assert {one.id for one in await keys.ls(ACME)} == {made[0].id, made[2].id, new.id}
            # One that is still taken ends nobody's.
            await keys.revoke(new.id, by="user:root")
            await keys.rotate(made[0].id, by="user:root", overlap_s=60)
            with pytest.raises(InvalidInput):
                await keys.make(ACME, "runner", by="user:root")

    asyncio.run(go())


@pytest.mark.parametrize(
    ("role", "tenant", "given_role", "given_tenant", "may"),
    [
        ("admin", None, "admin", None, True),
        ("operator", None, "admin", None, False),
        ("operator", None, "operator", None, True),
        ("operator", None, "runner", "acme", True),
        ("tenant-admin", "acme", "tenant-admin", "acme/x", True),
        ("tenant-admin", "acme", "runner", "acme2", False),
        ("tenant-admin", "acme", "runner", None, False),
        ("tenant-admin", "acme/x", "runner", "acme", False),
        ("runner", "acme", "runner", "acme", False),
        ("auditor", None, "auditor", "acme", False),
    ],
)
def test_who_may_give_a_key_may_also_take_it(
    role: Role, tenant: str | None, given_role: Role, given_tenant: str | None, may: bool
) -> None:
    who = Principal("key:1", Tenant(tenant) if tenant else None, role)
    whose = Tenant(given_tenant) if given_tenant else None

    async def go() -> None:
        async with opened() as keys:
            there, _ = await keys.make(whose, given_role, by="user:root")
            acts: list[Callable[[], Awaitable[object]]] = [
                lambda: keys.make(whose, given_role, by=who),
                lambda: keys.rotate(there.id, by=who, overlap_s=60),
                lambda: keys.revoke(there.id, by=who),
            ]
            for act in acts:
                if may:
                    await act()
                    continue
                with pytest.raises((AccessForbidden, InvalidInput)) as caught:
                    await act()
                assert caught.value.code in ("access.forbidden", "key.missing")
            state = (await keys.get(there.id)).state
            assert state == ("ended" if may else "active")
            by = [record.by for record in await keys.records()]
            assert by == ["user:root"] + (["key:1"] * 3 if may else [])

    asyncio.run(go())


def test_of_a_strangers_key_nobody_hears_that_it_is_there() -> None:
    async def go() -> None:
        async with opened() as keys:
            theirs, _ = await keys.make(Tenant("other"), "runner", by="user:root")
            who = Principal("key:1", ACME, "tenant-admin")
            for key_id in (theirs.id, "0" * 16, "", "x" * 10_000, "0123456789ABCDEF"):
                with pytest.raises(InvalidInput, match="there is no key") as caught:
                    await keys.revoke(key_id, by=who)
                assert caught.value.code == "key.missing"
                assert len(str(caught.value)) < 200

    asyncio.run(go())


@pytest.mark.parametrize(
    ("until", "said"),
    [
        (NOW.replace(tzinfo=None) + timedelta(days=1), "needs a time zone"),
        (NOW, "is over"),
        (NOW + timedelta(days=91), "lives until 2027-03-01"),
        (datetime(9999, 12, 31, tzinfo=UTC), "too far away"),
    ],
)
def test_an_end_that_makes_no_sense_is_refused(until: datetime, said: str) -> None:
    async def go() -> None:
        async with opened(age_max=timedelta(days=90)) as keys:
            with pytest.raises(InvalidInput, match=said) as caught:
                await keys.make(ACME, "runner", until=until, by="user:root")
            assert caught.value.code == "key.until"

    asyncio.run(go())


def test_where_keys_have_an_age_they_all_have_an_end() -> None:
    async def go() -> None:
        log = OwnLog(None)
        clock = Clock()
        unbounded = ApiKeys(log.journal, log, clock=clock, steady=clock)
        old, _ = await unbounded.make(ACME, "runner", until=NOW + timedelta(days=365), by="user:root")
        for_ever, _ = await unbounded.make(ACME, "runner", by="user:root")
        keys = ApiKeys(log.journal, log, age_max=timedelta(days=90), clock=clock, steady=clock)
        end = NOW + timedelta(days=90)
        assert (await keys.make(ACME, "runner", by="user:root"))[0].until == end
        for one in (old, for_ever):
            assert (await keys.rotate(one.id, by="user:root"))[0].until == end
        await log.aclose()

    asyncio.run(go())


@pytest.mark.parametrize("label", ["x" * 201, "a\nb", "\x1b[31m"])
def test_a_label_is_short_and_printable(label: str) -> None:
    async def go() -> None:
        async with opened() as keys:
            with pytest.raises(InvalidInput) as caught:
                await keys.make(ACME, "runner", label=label, by="user:root")
            assert caught.value.code == "key.label"

    asyncio.run(go())


def test_what_is_remembered_of_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apikeys, "_REMEMBERED_MAX", 5)

    async def go() -> None:
        async with opened() as keys:
            texts = [(await keys.make(ACME, "runner", by="user:root"))[1] for _ in range(20)]
            for text in texts:
                await keys.check(text)
                assert keys.knows(text)
            assert len(keys._rows) == 5 == len(keys._noted)
            assert [keys.knows(text) for text in texts[-6:]] == [False, True, True, True, True, True]

    asyncio.run(go())


def test_a_row_that_is_not_ours_lets_nobody_in() -> None:
    async def go() -> None:
        async with opened() as keys:
            info, text = await keys.make(ACME, "runner", by="user:root")
            await meddle(keys.log.journal, "UPDATE api_keys SET role = 'root'")
            with pytest.raises(AuditUnavailable, match=f"the key {info.id} has a role"):
                await keys.check(text)

    asyncio.run(go())


def test_a_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is none with that id: then with nothing."""
    compared: list[bytes] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(a)
        return a == b

    async def go() -> None:
        async with opened() as keys:
            info, text = await keys.make(ACME, "runner", by="user:root")
            row = await keys._do(lambda draft: draft.get(API_KEYS, info.id))
            assert isinstance(row, ApiKeyRow)
            monkeypatch.setattr("belljar.access.apikeys.hmac.compare_digest", compare)
            await keys.check(text)
            await refused(keys, f"bj_{'0' * 16}_{'A' * 43}")
            assert compared == [row.hash, bytes(32)]

    asyncio.run(go())
