"""Sessions, throttling, and all proofs together: who is let in, for how long, and what strangers cost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from belljar.access import AccessSettings, ApiKeys, Authenticator, OidcSettings, Principal, Sessions, Throttle
from belljar.access.apikeys import BELIEVED_S
from belljar.access.sessions import SECRET_FILE, SESSION_S
from belljar.errors import AccessDenied, AccessThrottled, AuditUnavailable
from belljar.identity import Tenant
from belljar.journal import Draft
from belljar.journal.tables import API_KEYS
from belljar.keys import Keys
from tests.journals import OwnLog

ACME = Tenant("acme")
NOW = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
ALICE = Principal("oidc:alice", ACME, "tenant-admin")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Site:
    """What one process of a service has."""

    def __init__(self, log: OwnLog, folder: Path, clock: Clock) -> None:
        self.clock = clock
        self.log = log
        self.keys = ApiKeys(log.journal, log, clock=clock, steady=clock)
        self.sessions = Sessions(self.keys, Keys(folder), clock=clock, terms=b"one issuer")
        self.authenticator = Authenticator(self.keys, self.sessions, throttle=Throttle(clock=clock))


@contextlib.asynccontextmanager
async def site(folder: Path, path: Path | None = None, clock: Clock | None = None) -> AsyncIterator[Site]:
    log = OwnLog(path)
    try:
        yield Site(log, folder, Clock() if clock is None else clock)
    finally:
        await log.aclose()


async def refused(sessions: Sessions, value: str) -> str:
    with pytest.raises(AccessDenied) as caught:
        await sessions.check(value)
    return caught.value.code


def test_a_session_says_who_logged_in_until_it_ends(tmp_path: Path) -> None:
    async def go() -> None:
        async with site(tmp_path / "keys") as here:
            session = here.sessions.begin(ALICE)
            assert session.until == NOW + SESSION_S
            assert await here.sessions.check(session.value) == session
            host = here.sessions.begin(Principal("oidc:root", None, "admin"))
            assert (await here.sessions.check(host.value)).principal == Principal("oidc:root", None, "admin")
            here.clock.now += SESSION_S - 1
            await here.sessions.check(session.value)
            here.clock.now += 1
            assert await refused(here.sessions, session.value) == "access.session"

    asyncio.run(go())


def test_a_session_of_a_token_lasts_no_longer_than_it(tmp_path: Path) -> None:
    async def go() -> None:
        async with site(tmp_path / "keys") as here:
            session = here.sessions.begin(ALICE, int(NOW) + 60)
            here.clock.now += 60
            assert await refused(here.sessions, session.value) == "access.session"
            assert here.sessions.begin(ALICE, int(NOW) + 10**9).until == here.clock.now + SESSION_S

    asyncio.run(go())


@pytest.mark.parametrize("terms", [b"another issuer", None])
def test_a_session_of_a_token_ends_with_the_terms_on_which_tokens_are_taken(
    tmp_path: Path, terms: bytes | None
) -> None:
    """Who has another issuer since, or gives its roles another meaning, has sessions of the old one no longer."""

    async def go() -> None:
        async with site(tmp_path / "keys") as here:
            info, text = await here.keys.make(ACME, "runner", by="user:root")
            of_key = here.sessions.begin(await here.keys.check(text))
            of_token = here.sessions.begin(ALICE)
            again = Sessions(here.keys, Keys(tmp_path / "keys"), clock=here.clock, terms=b"one issuer")
            assert (await again.check(of_token.value)).principal == ALICE
            later = Sessions(here.keys, Keys(tmp_path / "keys"), clock=here.clock, terms=terms)
            assert await refused(later, of_token.value) == "access.session"
            assert (await later.check(of_key.value)).principal.name == f"key:{info.id}"

    asyncio.run(go())


def test_the_longest_name_that_a_token_may_have_has_a_session(tmp_path: Path) -> None:
    async def go() -> None:
        async with site(tmp_path / "keys") as here:
            tenant = Tenant("/".join([63 * "a"] * 8))
            for subject in (255 * "\U0001f600", 255 * '"'):
                who = Principal(f"oidc:{subject}", tenant, "tenant-admin")
                assert (await here.sessions.check(here.sessions.begin(who).value)).principal == who

    asyncio.run(go())


@pytest.mark.usefixtures("store")
def test_a_session_ends_with_its_key_in_each_process(tmp_path: Path) -> None:
    async def go() -> None:
        clock = Clock()
        path = tmp_path / "audit.db"
        async with site(tmp_path / "keys", path, clock) as here, site(tmp_path / "keys", path, clock) as there:
            info, text = await here.keys.make(ACME, "runner", by="user:root")
            _, other = await here.keys.make(ACME, "runner", until=datetime.fromtimestamp(NOW + 60, UTC), by="user:root")
            session = await here.authenticator.log_in(text, address="10.0.0.1")
            short = await here.authenticator.log_in(other, address="10.0.0.1")
            assert session.principal == Principal(f"key:{info.id}", ACME, "runner")
            assert (await there.sessions.check(session.value)).principal == session.principal
            await here.keys.revoke(info.id, by="user:root")
            assert await refused(here.sessions, session.value) == "access.revoked"
            clock.now += BELIEVED_S
            assert await refused(there.sessions, session.value) == "access.revoked"
            await there.sessions.check(short.value)
            clock.now += 60
            assert await refused(there.sessions, short.value) == "access.expired"
            # Of a key whose row made room for another nobody knows anything.
            await here.keys._do(lambda draft: draft.remove(API_KEYS, info.id))
            clock.now += BELIEVED_S
            assert await refused(there.sessions, session.value) == "access.unknown"

    asyncio.run(go())


def test_hosts_that_share_no_keys_folder_take_only_their_own_sessions(tmp_path: Path) -> None:
    async def go() -> None:
        async with site(tmp_path / "one") as one, site(tmp_path / "two") as two:
            session = one.sessions.begin(ALICE)
            assert await refused(two.sessions, session.value) == "access.session"
            # The one file is enough.
            (tmp_path / "two" / SECRET_FILE).write_bytes((tmp_path / "one" / SECRET_FILE).read_bytes())
            again = Sessions(two.keys, Keys(tmp_path / "two"), clock=two.clock, terms=b"one issuer")
            assert await again.check(session.value) == session

    asyncio.run(go())


def test_a_session_that_was_changed_is_none(tmp_path: Path) -> None:
    async def go() -> None:
        async with site(tmp_path / "keys") as here:
            value = here.sessions.begin(ALICE).value
            for place in range(len(value)):
                changed = value[:place] + ("A" if value[place] != "A" else "B") + value[place + 1 :]
                # The last character of a base64 text has bits that say nothing: it is compared as a text.
                assert await refused(here.sessions, changed) == "access.session"

    asyncio.run(go())


@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]{1,80}\.[A-Za-z0-9_-]{43}"))
@example("\ud800.")
@example("é" * 43 + "." + "é" * 43)
@example("A" * 10_000 + "." + "A" * 43)
def test_any_text_is_no_session(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    async def go() -> None:
        async with site(tmp_path_factory.getbasetemp() / "session keys") as here:
            assert await refused(here.sessions, value) == "access.session"

    asyncio.run(go())


def test_a_form_belongs_to_its_session(tmp_path: Path) -> None:
    async def go() -> None:
        async with site(tmp_path / "keys") as here:
            one, other = here.sessions.begin(ALICE), here.sessions.begin(ALICE)
            assert one.value != other.value
            assert (await here.sessions.check(one.value)).csrf == one.csrf
            assert one.csrf not in (other.csrf, "", one.value, one.value.split(".")[1])

    asyncio.run(go())


def test_a_session_holds_no_secret(tmp_path: Path) -> None:
    async def go() -> None:
        async with site(tmp_path / "keys") as here:
            info, text = await here.keys.make(ACME, "runner", by="user:root")
            session = await here.authenticator.log_in(text, address="10.0.0.1")
            body = here.sessions._body(session.value)
            assert body is not None
            assert (body.name, body.tenant, body.role) == (f"key:{info.id}", "acme", "runner")
            assert text[20:] not in repr(body)

    asyncio.run(go())


# --------------------------------------------------------------------------------------------------------- throttling


def attempts(throttle: Throttle, address: str, most: int = 100) -> int:
    """How many failures are looked at before the first that is not."""
    for count in range(most):
        try:
            throttle.check(address)
        except AccessThrottled:
            return count
        throttle.failed(address)
    return most


def test_after_some_failures_an_address_waits_and_no_other_does() -> None:
    clock = Clock()
    throttle = Throttle(burst=5, each_s=6, clock=clock)
    assert attempts(throttle, "10.0.0.1") == 5
    with pytest.raises(AccessThrottled, match="try again in 6 s") as caught:
        throttle.check("10.0.0.1")
    assert (caught.value.code, caught.value.retry_after_s) == ("access.throttled", 6)
    throttle.check("10.0.0.2")
    clock.now += 5.9
    with pytest.raises(AccessThrottled, match="try again in 1 s"):
        throttle.check("10.0.0.1")
    clock.now += 0.2
    assert attempts(throttle, "10.0.0.1") == 1
    clock.now += 3600
    assert attempts(throttle, "10.0.0.1") == 5


def test_however_many_have_failed_at_once_the_wait_has_a_bound() -> None:
    clock = Clock()
    throttle = Throttle(burst=5, each_s=6, clock=clock)
    for _ in range(1000):
        throttle.failed("10.0.0.1")
    clock.now += 6.1
    throttle.check("10.0.0.1")


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("/run/belljar.sock", "/run/belljar.sock", True),
        ("", "x", False),
        ("x" * 100_000, "x" * 100, True),
    ],
)
def test_what_is_one_machine_counts_as_one(one: str, other: str, are_one: bool) -> None:
    throttle = Throttle(burst=5, clock=Clock())
    assert attempts(throttle, one) == 5
    assert attempts(throttle, other) == (0 if are_one else 5)


def test_failures_of_however_many_addresses_take_no_more_room() -> None:
    throttle = Throttle(burst=1, addresses_max=100, clock=Clock())
    for number in range(1000):
        throttle.failed(f"10.0.{number // 256}.{number % 256}")
    assert len(throttle._full_at) == 100
    with pytest.raises(AccessThrottled):
        throttle.check("10.0.3.231")  # the last
    throttle.check("10.0.0.0")


# ---------------------------------------------------------------------------------------------------- all of it at once


def test_guesses_are_throttled_and_a_key_that_works_is_not(tmp_path: Path) -> None:
    async def go() -> None:
        async with site(tmp_path / "keys") as here:
            _, text = await here.keys.make(ACME, "runner", by="user:root")
            _, new = await here.keys.make(ACME, "runner", by="user:root")
            check = here.authenticator.check
            await check(text, address="10.0.0.1")
            codes = []
            for number in range(15):
                with pytest.raises(AccessDenied) as caught:
                    await check(f"bj_{number:016x}_{'A' * 43}", address="10.0.0.1")
                codes.append(caught.value.code)
            assert codes == ["access.unknown"] * 10 + ["access.throttled"] * 5
            # Behind the same proxy: it was good before, so somebody else's guesses do not keep it out.
            here.clock.now += BELIEVED_S
            await check(text, address="10.0.0.1")
            with pytest.raises(AccessThrottled):
                await check(new, address="10.0.0.1")
            await check(new, address="10.0.0.2")

    asyncio.run(go())


def test_a_key_that_was_good_before_a_service_began_is_not_held_up_either(tmp_path: Path) -> None:
    """Else one attempt each six seconds would keep out all who are behind the same proxy, from each start on."""

    async def go() -> None:
        async with site(tmp_path / "keys", tmp_path / "audit.db") as here:
            made = [await here.keys.make(ACME, "runner", by="user:root") for _ in range(3)]
            used, revoked, new = (text for _, text in made)
            for text in (used, revoked):
                await here.authenticator.check(text, address="10.0.0.1")
            await here.keys.revoke(made[1][0].id, by="user:root")
            await here.keys.ls()  # what was written before is
            again = Site(here.log, tmp_path / "keys", here.clock)
            await again.keys.recall()
            for number in range(15):
                with pytest.raises(AccessDenied):
                    await again.authenticator.check(f"bj_{number:016x}_{'A' * 43}", address="10.0.0.1")
            await again.authenticator.check(used, address="10.0.0.1")
            for text in (revoked, new):
                with pytest.raises(AccessThrottled):
                    await again.authenticator.check(text, address="10.0.0.1")
            # It is known and not believed: what happened to it meanwhile counts.
            later = Site(here.log, tmp_path / "keys", here.clock)
            await later.keys.recall()
            await here.keys.revoke(made[0][0].id, by="user:root")
            with pytest.raises(AccessDenied) as caught:
                await later.authenticator.check(used, address="10.0.0.1")
            assert caught.value.code == "access.revoked"

    asyncio.run(go())


def test_what_lasts_longer_is_asked_for_again_however_many_have_failed_from_there(tmp_path: Path) -> None:
    """Else whoever has others fail from their own address would be told to wait, and not that their key has ended."""

    async def go() -> None:
        async with site(tmp_path / "keys") as here:
            info, text = await here.keys.make(ACME, "runner", by="user:root")
            _, other = await here.keys.make(ACME, "runner", by="user:root")
            check = here.authenticator.check
            await check(text, address="10.0.0.1")
            for number in range(15):
                with pytest.raises(AccessDenied):
                    await check(f"bj_{number:016x}_{'A' * 43}", address="10.0.0.1")
            await check(other, address=None)
            await here.keys.revoke(info.id, by="user:root")
            with pytest.raises(AccessThrottled):
                await check(text, address="10.0.0.1")
            for _ in range(15):
                with pytest.raises(AccessDenied) as caught:
                    await check(text, address=None)
                assert caught.value.code == "access.revoked"

    asyncio.run(go())


def test_many_guesses_at_once_ask_the_journal_no_oftener(tmp_path: Path) -> None:
    async def go() -> None:
        async with site(tmp_path / "keys", tmp_path / "audit.db") as here:
            asked = 0
            do = here.keys._do

            async def counted(work: object) -> object:
                nonlocal asked
                asked += 1
                return await do(work)  # type: ignore[arg-type]

            here.keys._do = counted  # type: ignore[method-assign, assignment]
            guesses = (here.authenticator.check(f"bj_{n:016x}_{'A' * 43}", address="10.0.0.1") for n in range(500))
            found = await asyncio.gather(*guesses, return_exceptions=True)
            assert {type(one) for one in found} == {AccessDenied, AccessThrottled}
            assert asked < 20

    asyncio.run(go())


def test_whoever_had_a_key_once_locks_nobody_out(tmp_path: Path) -> None:
    async def go() -> None:
        async with site(tmp_path / "keys") as here:
            info, text = await here.keys.make(ACME, "runner", by="user:root")
            _, other = await here.keys.make(ACME, "runner", by="user:root")
            await here.keys.revoke(info.id, by="user:root")
            for _ in range(100):
                with pytest.raises(AccessDenied) as caught:
                    await here.authenticator.check(text, address="10.0.0.1")
                assert caught.value.code == "access.revoked"
            await here.authenticator.check(other, address="10.0.0.1")

    asyncio.run(go())


def test_many_that_were_not_seen_before_are_let_in_together(tmp_path: Path) -> None:
    async def go() -> None:
        async with site(tmp_path / "keys", tmp_path / "audit.db") as here:
            texts = [(await here.keys.make(ACME, "runner", by="user:root"))[1] for _ in range(60)]
            again = Site(here.log, tmp_path / "keys", here.clock)
            found = await asyncio.gather(*(again.authenticator.check(text, address="10.0.0.1") for text in texts * 3))
            assert len({principal.name for principal in found}) == 60

    asyncio.run(go())


def test_a_journal_that_fails_is_nobodys_failed_attempt(tmp_path: Path) -> None:
    async def go() -> None:
        async with site(tmp_path / "keys", tmp_path / "audit.db") as here:
            _, text = await here.keys.make(ACME, "runner", by="user:root")

            def fail(_: Draft) -> None:
                raise AuditUnavailable("the disk is full")

            do = here.keys._do
            here.keys._do = lambda _: do(fail)  # type: ignore[method-assign, assignment, arg-type]
            for _ in range(30):
                with pytest.raises(AuditUnavailable):
                    await here.authenticator.check(text, address="10.0.0.1")
            here.keys._do = do  # type: ignore[method-assign]
            await here.authenticator.check(text, address="10.0.0.1")

    asyncio.run(go())


def test_what_a_service_is_opened_with_is_what_its_sessions_and_known_keys_go_by(tmp_path: Path) -> None:
    async def go() -> None:
        log = OwnLog(None)
        oidc = OidcSettings(
            issuer="https://login.example",
            audience="belljar",
            jwks_url="https://login.example/keys",
            roles={"devs": "admin"},
        )

        def opened(oidc: OidcSettings | None) -> contextlib.AbstractAsyncContextManager[Authenticator]:
            return Authenticator.opened(log.journal, log, Keys(tmp_path / "keys"), AccessSettings(oidc=oidc))

        async with opened(oidc) as found:
            _, text = await found.keys.make(ACME, "runner", by="user:root")
            await found.check(text, address="10.0.0.1")
            value = found.sessions.begin(Principal("oidc:alice", None, "admin")).value
            await found.keys.ls()  # what was written before is
        async with opened(oidc) as found:
            assert (await found.sessions.check(value)).principal.role == "admin"
            assert found.keys.knows(text)
        for other in (structs.replace(oidc, roles={"devs": "runner"}), None):
            async with opened(other) as found:
                assert await refused(found.sessions, value) == "access.session"
        await log.aclose()

    asyncio.run(go())


def test_without_an_issuer_a_token_is_no_key(tmp_path: Path) -> None:
    async def go() -> None:
        log = OwnLog(None)
        settings = AccessSettings(key_age_max=timedelta(days=1))
        async with Authenticator.opened(log.journal, log, Keys(tmp_path / "keys"), settings) as found:
            with pytest.raises(AccessDenied) as caught:
                await found.check("a.b.c", address="10.0.0.1")
            assert caught.value.code == "access.unknown"
            info, text = await found.keys.make(ACME, "runner", by="user:root")
            assert info.until is not None
            await found.check(text, address="10.0.0.1")
        await log.aclose()

    asyncio.run(go())
