"""Webhooks: who is told what, once and signed; what fails is told again; and nothing leads into a private network."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, cast

import pytest

from belljar.access import Principal
from belljar.audit.events import HookChanged, HookDelivered
from belljar.audit.read import parse
from belljar.errors import AccessForbidden, InvalidInput
from belljar.hooks import Deliveries, HookInfo, Hooks, hooks, sending
from belljar.hooks.delivering import AT_ONCE, ATTEMPTS_MAX, KEPT_S, LEASE_S, OF_ONE, wait_s
from belljar.hooks.quotas import Reached, _look, reached
from belljar.hooks.sending import NotSent, is_public, send
from belljar.identity import Tenant
from belljar.journal.tables import DELIVERIES, DeliveryRow
from belljar.keys import Keys
from belljar.ledger import LIMITED, Amounts, Limits, Quota, Remaining
from belljar.quotas import open_quotas
from tests.certificates import certified
from tests.journals import OwnLog, meddle
from tests.waiting import PATIENCE_S, in_time, until

ACME = Tenant("acme")
NOW = 1_800_000_000
on_each_store = pytest.mark.usefixtures("store")


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


class Endpoint:
    """Takes what a hook is told, and answers with `status` once it may."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.status = 204
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        here = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                here.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                here.may_answer.wait()
                with contextlib.suppress(OSError):
                    self.send_response(here.status)
                    self.send_header("Location", f"{here.url}/elsewhere")
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def told(self) -> list[Any]:
        """The subjects of what came, in order."""
        return [json.loads(body)["data"] for _, body in self.got]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


class Site(Hooks):
    def __init__(self, log: OwnLog, folder: Path, clock: Clock, *, private: bool = True) -> None:
        self.log = log
        self.time = clock
        super().__init__(log.journal, log, Keys(folder), private=private, clock=clock)

    def delivering(self) -> Deliveries:
        return Deliveries(self, poll_s=0.01, chance=lambda: 0.5)

    async def due(self) -> list[str]:
        """The hooks that there is something to tell now; that is then under way."""
        return [hook.id for hook, _ in await self.do(self.delivering()._take)]

    async def rows(self) -> list[DeliveryRow]:
        found = await self.do(lambda draft: draft.query("SELECT * FROM deliveries ORDER BY since, id"))
        return [DELIVERIES.unpack(tuple(row)) for row in found]

    async def records(self) -> list[HookChanged | HookDelivered]:
        found = await meddle(self.journal, "SELECT seq, body FROM records WHERE run = 'host.hooks' ORDER BY seq")
        events = [parse(seq, bytes(body)).typed for seq, body in found]
        return [event for event in events if isinstance(event, HookChanged | HookDelivered)]

    async def until(self, is_so: Callable[[list[DeliveryRow]], bool], what: str) -> None:
        async with in_time(PATIENCE_S, what):
            while not is_so(await self.rows()):  # noqa: ASYNC110 (another task, or process, acts)
                await asyncio.sleep(0.01)

    async def all_done(self) -> None:
        await self.until(lambda rows: all(row.done_at for row in rows), "all is delivered or given up")


@contextlib.asynccontextmanager
async def site(folder: Path, path: Path | None = None, **options: Any) -> AsyncIterator[Site]:
    log = OwnLog(path)
    try:
        yield Site(log, folder / "keys", options.pop("clock", None) or Clock(), **options)
    finally:
        await log.aclose()


def is_signed(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """As a receiver checks it, from the specification alone."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
    return headers["webhook-signature"] == f"v1,{mac}"


@on_each_store
def test_a_hook_is_told_signed_and_once(tmp_path: Path, endpoint: Endpoint) -> None:
    async def go() -> None:
        async with site(tmp_path, tmp_path / "audit.db") as here, here.delivering() as deliveries:
            info, secret = await here.make(ACME, f"{endpoint.url}/x?y=1", by="user:root")
            for _ in range(2):  # it is told again: a retry, or another process
                await here.tell("run.ended", Tenant("acme/research"), "r1", "r1")
                deliveries.wake()
            await here.all_done()
            assert len(endpoint.got) == 1
            headers, body = endpoint.got[0]
            assert json.loads(body) == {"type": "run.ended", "timestamp": "2027-01-15T08:00:00Z", "data": "r1"}
            assert is_signed(secret, headers, body)
            assert not is_signed(secret, {**headers, "webhook-timestamp": "1"}, body)
            assert headers["host"] == f"127.0.0.1:{endpoint.port}"
            (row,) = await here.rows()
            assert (headers["webhook-id"], row.status, row.attempts, row.body) == (row.id, 204, 1, b"")
            assert await here.records() == [
                HookChanged(by="user:root", hook=info.id, what="made", tenant="acme"),
                HookDelivered(hook=info.id, delivery=row.id, told="run.ended", of="r1", attempts=1, arrived=True),
            ]

    asyncio.run(go())
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("belljar-hook-names")]
    until(lambda: not any(thread.is_alive() for thread in ours), what="no thread of it is left")


@on_each_store
def test_a_hook_hears_of_its_subtree_and_of_what_it_asked_for(tmp_path: Path, endpoint: Endpoint) -> None:
    async def go() -> None:
        async with site(tmp_path, tmp_path / "audit.db") as here:
            asked: list[tuple[Tenant | None, tuple[hooks.Told, ...]]] = [
                (None, ("run.ended",)),
                (ACME, ("run.ended", "quota.threshold")),
                (Tenant("acme/research"), ("quota.threshold",)),
                (Tenant("acme2"), ("run.ended",)),
            ]
            for tenant, told in asked:
                await here.make(tenant, endpoint.url, told=told, by="user:root")
            assert await here.tell("run.ended", Tenant("acme/research"), "r1", "r1") == 2
            assert await here.tell("quota.threshold", Tenant("acme/research/x"), "t", "t") == 2
            assert await here.tell("run.ended", Tenant("acm"), "r2", "r2") == 1
            assert await here.tell("run.ended", Tenant("acme2/x"), "r3", "r3") == 2
            assert await here.tell("run.ended", ACME, "r1", "r1", once="again") == 2

    asyncio.run(go())


@on_each_store
def test_what_fails_is_told_again_ever_later_and_at_last_given_up(tmp_path: Path, endpoint: Endpoint) -> None:
    async def go() -> None:
        async with site(tmp_path, tmp_path / "audit.db") as here, here.delivering():
            await here.make(ACME, endpoint.url, by="user:root")
            endpoint.status = 500
            await here.tell("run.ended", ACME, "r1", "r1")
            for attempt in range(1, ATTEMPTS_MAX):
                later = here.time.now + wait_s(attempt, 0.5)
                await here.until(lambda rows: rows[0].next_at == later, "it failed")  # noqa: B023
                assert (await here.rows())[0].status == 500
                here.time.now = later - 1
                assert await here.due() == []
                assert len(endpoint.got) == attempt
                here.time.now = later
            await here.all_done()
            (row,) = await here.rows()
            assert (row.attempts, row.body) == (ATTEMPTS_MAX, b"")
            delivered = (await here.records())[-1]
            assert isinstance(delivered, HookDelivered)
            assert (delivered.arrived, delivered.attempts) == (False, ATTEMPTS_MAX)
            assert len({headers["webhook-id"] for headers, _ in endpoint.got}) == 1
            assert len({headers["webhook-timestamp"] for headers, _ in endpoint.got}) == ATTEMPTS_MAX

    asyncio.run(go())


@pytest.mark.parametrize(("status", "attempts"), [(410, 1), (200, 1), (299, 1)])
def test_what_arrived_or_is_gone_is_not_told_again(
    tmp_path: Path, endpoint: Endpoint, status: int, attempts: int
) -> None:
    async def go() -> None:
        async with site(tmp_path) as here, here.delivering():
            await here.make(ACME, endpoint.url, by="user:root")
            endpoint.status = status
            await here.tell("run.ended", ACME, "r1", "r1")
            await here.all_done()
            assert [row.attempts for row in await here.rows()] == [attempts]

    asyncio.run(go())


def test_a_redirect_is_not_followed(tmp_path: Path, endpoint: Endpoint) -> None:
    async def go() -> None:
        async with site(tmp_path) as here, here.delivering():
            await here.make(ACME, endpoint.url, by="user:root")
            endpoint.status = 307
            await here.tell("run.ended", ACME, "r1", "r1")
            await here.until(lambda rows: rows[0].status == 307, "it failed")
            assert [row.done_at for row in await here.rows()] == [0]
            assert len(endpoint.got) == 1

    asyncio.run(go())


def test_waits_grow_fourfold_up_to_a_bound_and_are_spread() -> None:
    assert [wait_s(attempts, 0.5) for attempts in (1, 2, 3, 7, 9, 100)] == [5, 20, 80, 20480, 21600, 21600]
    assert (wait_s(9, 0), wait_s(9, 1)) == (17280, 25920)


@on_each_store
def test_a_process_that_died_with_a_delivery_leaves_it_to_others(tmp_path: Path, endpoint: Endpoint) -> None:
    async def go() -> None:
        clock = Clock()
        path = tmp_path / "audit.db"
        async with site(tmp_path, path, clock=clock) as one, site(tmp_path, path, clock=clock) as other:
            await one.make(ACME, endpoint.url, by="user:root")
            await one.tell("run.ended", ACME, "r1", "r1")
            dead = one.delivering()
            assert len(await one.do(dead._take)) == 1  # and then it was killed
            assert await other.due() == []
            clock.now += LEASE_S
            async with other.delivering():
                await other.all_done()
            assert endpoint.told == ["r1"]
            assert [row.attempts for row in await one.rows()] == [2]

    asyncio.run(go())


@on_each_store
def test_of_many_processes_one_tells(tmp_path: Path, endpoint: Endpoint) -> None:
    async def go() -> None:
        path = tmp_path / "audit.db"
        async with site(tmp_path, path) as one, site(tmp_path, path) as other:
            for number in range(3):
                await one.make(ACME, f"{endpoint.url}/{number}", by="user:root")
            async with one.delivering(), other.delivering():
                for number in range(5):
                    await one.tell("run.ended", ACME, f"r{number}", f"r{number}")
                await one.all_done()
            assert sorted(endpoint.told) == sorted(f"r{number}" for number in range(5) for _ in range(3))

    asyncio.run(go())


def test_a_hook_that_hangs_holds_up_itself_alone(tmp_path: Path, endpoint: Endpoint) -> None:
    async def go() -> None:
        with Endpoint() as stuck:
            stuck.may_answer.clear()
            async with site(tmp_path) as here, here.delivering():
                await here.make(ACME, stuck.url, by="user:root")
                await here.make(ACME, endpoint.url, by="user:root")
                for number in range(20):
                    await here.tell("run.ended", ACME, f"r{number}", f"r{number}")
                async with in_time(PATIENCE_S, "the other one has heard it all"):
                    while len(endpoint.got) < 20:  # noqa: ASYNC110 (another thread counts)
                        await asyncio.sleep(0.01)
                assert len(stuck.got) == 1

    asyncio.run(go())


@on_each_store
def test_hooks_that_hang_hold_up_no_other_tenants(tmp_path: Path, endpoint: Endpoint) -> None:
    """However many of one tenant hang, and however long theirs has been due."""

    async def go() -> None:
        with Endpoint() as stuck:
            stuck.may_answer.clear()
            async with site(tmp_path, tmp_path / "audit.db") as here:
                for number in range(2 * AT_ONCE):
                    await here.make(Tenant(f"acme/t{number % 3}"), f"{stuck.url}/{number}", by="user:root")
                await here.make(Tenant("acme2"), endpoint.url, by="user:root")
                for number in range(3):
                    for tenant in ("acme/t0", "acme/t1", "acme/t2"):
                        await here.tell("run.ended", Tenant(tenant), f"r{number}", f"r{number}")
                async with here.delivering() as deliveries:
                    async with in_time(PATIENCE_S, "all their places are taken"):
                        while len(stuck.got) < OF_ONE:  # noqa: ASYNC110 (another thread counts)
                            await asyncio.sleep(0.01)
                    here.time.now += 5
                    for number in range(20):
                        await here.tell("run.ended", Tenant("acme2"), f"r{number}", f"r{number}")
                    async with in_time(PATIENCE_S, "the other tenant's has heard it all"):
                        while len(endpoint.got) < 20:  # noqa: ASYNC110 (likewise)
                            await asyncio.sleep(0.01)
                    assert [*deliveries._whose.values()].count("acme") <= OF_ONE
                    stuck.may_answer.set()

    asyncio.run(go())


def test_tenants_take_turns_at_being_told() -> None:
    deliveries = Deliveries(cast("Any", None))
    waiting = {**{f"a{number}": "acme" for number in range(20)}, "b": "beta", "c0": "", "c1": ""}
    assert deliveries._chosen(waiting) == ["a0", "b", "c0", "a1", "c1", "a2", "a3"]
    assert deliveries._chosen({"a9": "acme", "b": "beta", "d": "delta"}) == ["d", "b", "a9"]
    assert deliveries._turns.keys() == {"acme", "beta", "delta"}


def test_what_waits_is_bounded_and_what_is_beyond_is_logged(
    tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "PENDING_MAX", 3)

    async def go() -> None:
        async with site(tmp_path) as here:
            await here.make(ACME, endpoint.url, by="user:root")
            assert [await here.tell("run.ended", ACME, f"r{n}", n) for n in range(5)] == [1, 1, 1, 0, 0]
            given_up = [event for event in await here.records() if isinstance(event, HookDelivered)]
            assert [(event.of, event.attempts, event.arrived) for event in given_up] == [
                ("r3", 0, False),
                ("r4", 0, False),
            ]
            async with here.delivering():
                await here.all_done()
            assert sorted(endpoint.told) == [0, 1, 2]
            with pytest.raises(InvalidInput) as caught:
                await here.tell("run.ended", ACME, "r9", "x" * hooks.BODY_BYTES_MAX)
            assert caught.value.code == "hook.too_long"

    asyncio.run(go())


def test_what_is_done_goes_after_a_while(tmp_path: Path, endpoint: Endpoint) -> None:
    async def go() -> None:
        async with site(tmp_path) as here:
            await here.make(ACME, endpoint.url, by="user:root")
            await here.tell("run.ended", ACME, "r1", "r1")
            async with here.delivering():
                await here.all_done()
            here.time.now += KEPT_S
            await here.do(here.delivering()._clean)
            assert len(await here.rows()) == 1
            here.time.now += 1
            async with here.delivering():
                await here.until(lambda rows: not rows, "it is gone")

    asyncio.run(go())


def test_a_hook_that_was_removed_is_told_nothing(tmp_path: Path, endpoint: Endpoint) -> None:
    async def go() -> None:
        async with site(tmp_path) as here:
            info, _ = await here.make(ACME, endpoint.url, by="user:root")
            await here.tell("run.ended", ACME, "r1", "r1")
            async with here.delivering():
                await here.all_done()
            await here.tell("run.ended", ACME, "r2", "r2")
            await here.remove(info.id, by="user:root")
            assert await here.rows() == []
            assert await here.ls() == []
            assert await here.tell("run.ended", ACME, "r3", "r3") == 0
            assert await here.due() == []
            assert endpoint.told == ["r1"]

    asyncio.run(go())


def test_the_secret_of_a_hook_is_not_in_the_journal_in_the_clear(tmp_path: Path, endpoint: Endpoint) -> None:
    async def go() -> None:
        async with site(tmp_path, tmp_path / "audit.db") as here:
            _, secret = await here.make(ACME, endpoint.url, by="user:root")
            raw = base64.b64decode(secret.removeprefix("whsec_"))
            for data in contents(tmp_path):
                assert all(form not in data for form in (raw, raw.hex().encode(), secret[6:].encode()))

    def contents(folder: Path) -> list[bytes]:
        return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]

    asyncio.run(go())


def test_a_host_without_the_key_of_secrets_tells_nothing_and_gives_up_late(tmp_path: Path, endpoint: Endpoint) -> None:
    async def go() -> None:
        log = OwnLog(None)
        clock = Clock()
        one, other = Site(log, tmp_path / "one", clock), Site(log, tmp_path / "other", clock)
        await one.make(ACME, endpoint.url, by="user:root")
        await one.tell("run.ended", ACME, "r1", "r1")
        async with other.delivering():
            await one.until(lambda rows: rows[0].next_at > NOW and rows[0].next_at < NOW + LEASE_S, "it failed")
        assert endpoint.got == []
        clock.now += 60
        async with one.delivering():
            await one.all_done()
        assert endpoint.told == ["r1"]
        await log.aclose()

    asyncio.run(go())


# ------------------------------------------------------------------------------------------------------ who may


def test_hooks_belong_to_a_tenant_and_its_admins(tmp_path: Path) -> None:
    url = "https://hooks.example.com/x"

    async def go() -> None:
        async with site(tmp_path) as here:
            admin = Principal("key:1", ACME, "tenant-admin")
            info, _ = await here.make(Tenant("acme/x"), url, by=admin)
            theirs, _ = await here.make(Tenant("other"), url, by="user:root")
            assert await here.ls(ACME) == [info]
            assert isinstance(info, HookInfo)
            for role in ("runner", "auditor", "operator"):
                with pytest.raises(AccessForbidden):
                    await here.make(ACME, url, by=Principal("key:2", ACME, role))
            for tenant in (None, Tenant("other"), Tenant("acme2")):
                with pytest.raises(AccessForbidden):
                    await here.make(tenant, url, by=admin)
            for hook_id in (theirs.id, "0" * 16, "x" * 9999):
                with pytest.raises(InvalidInput) as caught:
                    await here.remove(hook_id, by=admin)
                assert caught.value.code == "hook.missing"
            with pytest.raises(AccessForbidden):
                await here.remove(info.id, by=Principal("key:3", ACME, "auditor"))
            await here.remove(info.id, by=admin)
            assert len(await here.ls()) == 1

    asyncio.run(go())


def test_a_tenant_has_so_many_hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "HOOKS_MAX", 2)
    url = "https://hooks.example.com/x"

    async def go() -> None:
        async with site(tmp_path) as here:
            for tenant in (ACME, Tenant("acme/x"), Tenant("acme2"), None):
                await here.make(tenant, url, by="user:root")
            with pytest.raises(InvalidInput, match="acme has 2 hooks") as caught:
                await here.make(Tenant("acme/y"), url, by="user:root")
            assert caught.value.code == "hook.too_many"

    asyncio.run(go())


@pytest.mark.parametrize(
    "url",
    [
        *("http://hooks.example.com/", "ftp://hooks.example.com/", "https://", "https://user@hooks.example.com/"),
        *("https://hooks.example.com/#x", "https://a b/", "https://[::1", "https://x:0/", "https://x:99999/", ""),
        *("https://x/" + "y" * 2000, "file:///etc/passwd", "https://ü.example.com/", "https://x/\r\nHost: y"),
    ],
)
def test_the_address_of_a_hook_is_https_and_plain(tmp_path: Path, url: str) -> None:
    async def go() -> None:
        async with site(tmp_path, private=False) as here:
            with pytest.raises(InvalidInput) as caught:
                await here.make(ACME, url, by="user:root")
            assert caught.value.code == "hook.url"

    asyncio.run(go())


# ------------------------------------------------------------------------------------------------------ where it leads


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
        ),
        *("255.255.255.255", "198.18.0.1", "192.0.2.1", "240.0.0.1", "::1", "::", "fe80::1", "fc00::1", "fd00::1"),
        *(
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:0:1::",
            "fe80::1%lo",
        ),
        *("2001:db8::1", "64:ff9b:1::1", "fec0::1", "::7f00:1", "4000::1"),
    ],
)
def test_an_address_that_is_not_public_is_none(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Names have these addresses, the last ones for ever. Gives the names that were asked for."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_a_name_that_leads_to_a_private_address_is_not_asked(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go(url: str) -> str:
        with pytest.raises(NotSent) as caught:
            await send(url, {}, b"{}", private=False)
        return str(caught.value)

    for url in (
        endpoint.url,
        f"http://localhost:{endpoint.port}",
        f"http://2130706433:{endpoint.port}",
        f"http://0x7f.1:{endpoint.port}",
    ):
        assert asyncio.run(go(url)) == "its name has an address that is not public"
    resolving(monkeypatch, ["1.1.1.1", "127.0.0.1"])
    assert asyncio.run(go(f"http://both.example.com:{endpoint.port}")) == "its name has an address that is not public"
    assert endpoint.got == []


def test_the_address_that_was_looked_at_is_the_one_that_is_asked(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is another one's by the time it is resolved again would lead there; it is resolved once."""
    monkeypatch.setattr(sending, "is_public", lambda address: address == "127.0.0.1")
    asked = resolving(monkeypatch, ["127.0.0.1"], ["10.0.0.1"])
    with contextlib.suppress(NotSent):
        asyncio.run(send(f"http://hooks.example.com:{endpoint.port}/x", {}, b"{}", private=False))
    assert asked == ["hooks.example.com"]
    assert endpoint.got[0][0]["host"] == f"hooks.example.com:{endpoint.port}"


def certificate(folder: Path, name: str) -> Path:
    """A key, and a certificate for `name` that it signed itself, in one file."""
    signed, key = certified(folder, name)
    file = folder / "certificate.pem"
    file.write_bytes(key.read_bytes() + signed.read_bytes())
    return file


def test_the_certificate_has_to_be_for_the_name_and_by_somebody_we_believe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = certificate(tmp_path, "hooks.example.com")
    believed = ssl.create_default_context(cafile=str(file))
    resolving(monkeypatch, ["127.0.0.1"])

    async def go(name: str, tls: ssl.SSLContext | None) -> int:
        return await send(f"https://{name}:{there.port}/", {}, b"{}", private=True, tls=tls)

    with Endpoint(file) as there:
        assert asyncio.run(go("hooks.example.com", believed)) == 204
        for name, tls in (("other.example.com", believed), ("hooks.example.com", None)):
            with pytest.raises(NotSent, match="SSLCertVerificationError"):
                asyncio.run(go(name, tls))
        assert len(there.got) == 1


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"HTTP/1.0 410\r\n\r\n", 410),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, None),
        (b"HTTP/1.1 103 Early Hints\r\n" + b"x: y\r\n" * 10_000, None),
        (b"HTTP/1.1 200 " + b"y" * 100_000, None),
        (b"SSH-2.0-OpenSSH\r\n", None),
        (b"", None),
    ],
)
def test_of_an_answer_the_status_is_read_and_little_else(answer: bytes, status: int | None) -> None:
    """Whatever came before the status was parsed, for as long as it came, and kept the event loop from all others."""

    def respond(listening: socket.socket) -> None:
        opened, _ = listening.accept()
        with opened, contextlib.suppress(OSError):
            while not opened.recv(65536).endswith(b"{}"):
                pass
            opened.sendall(answer)
            if answer:
                opened.recv(1)  # it stays open: nobody has to wait for its end

    with socket.create_server(("127.0.0.1", 0)) as listening:
        answering = threading.Thread(target=respond, args=(listening,))
        answering.start()
        telling = send(f"http://127.0.0.1:{listening.getsockname()[1]}/x?y=z", {}, b"{}", private=True)
        if status is None:
            with pytest.raises(NotSent, match="ValueError"):
                asyncio.run(telling)
        else:
            assert asyncio.run(telling) == status
        answering.join(PATIENCE_S)


def test_names_that_nobody_resolves_keep_no_thread_from_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever chose the name may run its server. The threads that everybody shares waited for it."""
    over, names = threading.Event(), ThreadPoolExecutor(32)

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        over.wait(PATIENCE_S)
        raise socket.gaierror

    async def tell() -> None:
        telling = [send("https://hook.example/", {}, b"", private=False, names=names) for _ in range(40)]
        found = await asyncio.gather(*telling, return_exceptions=True)
        assert {type(one) for one in found} == {NotSent}
        done, _ = await asyncio.wait([asyncio.create_task(asyncio.to_thread(lambda: None))], timeout=20)
        over.set()
        assert done

    monkeypatch.setattr(sending, "SEND_S", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        asyncio.run(tell())
    finally:
        over.set()


def test_a_hook_that_does_not_answer_is_given_up(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SEND_S", 0.2)
    endpoint.may_answer.clear()
    with pytest.raises(NotSent, match="it took longer than"):
        asyncio.run(send(endpoint.url, {}, b"{}", private=True))


# ------------------------------------------------------------------------------------------------------ quotas


NO_LIMITS: dict[str, Any] = dict.fromkeys(LIMITED)
NO_LEFT: dict[str, Any] = dict.fromkeys(Remaining.__struct_fields__)


def quota(used: int, limit: int | None, **more: Any) -> Quota:
    limits = None if limit is None else Limits("day", **{**NO_LIMITS, "calls": limit, "boxes": 1})
    fields = {"tenant": "acme", "period": "day", "key": "2027-01-15", "resets_at": None, **more}
    return Quota(
        **fields, used=Amounts(calls=used, boxes=1), held=Amounts(calls=50), limits=limits, left=Remaining(**NO_LEFT)
    )


@pytest.mark.parametrize(
    ("used", "limit", "percent"),
    [
        (79, 100, []),
        (80, 100, [80]),
        (99, 100, [80]),
        (100, 100, [80, 100]),
        (300, 100, [80, 100]),
        (9, None, []),
        (5, 0, []),
    ],
)
def test_a_threshold_is_reached_by_what_was_used(used: int, limit: int | None, percent: list[int]) -> None:
    assert [(one.dimension, one.percent) for one in reached([quota(used, limit)])] == [
        ("calls", one) for one in percent
    ]


def test_thresholds_are_looked_for_beside_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten thousand tenants that takes a quarter of a second."""
    looked_in: list[int] = []

    def seen(found: Iterable[Quota]) -> Iterator[Reached]:
        for one in found:
            looked_in.append(threading.get_ident())
            yield from reached([one])

    monkeypatch.setattr("belljar.hooks.quotas.reached", seen)

    async def go() -> None:
        path = tmp_path / "audit.db"
        async with site(tmp_path, path) as one, open_quotas(path) as quotas:
            await one.make(ACME, "https://127.0.0.1:9/", by="user:root")
            await quotas.change("acme", {"day": {"calls": 1}, "month": {"calls": 1}}, by="test")
            await _look(one, quotas, set())

    asyncio.run(go())
    assert len(looked_in) == 2
    assert threading.get_ident() not in looked_in


@on_each_store
def test_a_threshold_is_told_once_in_a_period(tmp_path: Path, endpoint: Endpoint) -> None:
    class Shown:
        async def of_all(self, make: Callable[[Iterable[Quota]], Any]) -> Any:
            return make(found)

    found = [quota(85, 100)]

    async def go() -> None:
        path = tmp_path / "audit.db"
        shown: Any = Shown()
        async with site(tmp_path, path) as one, site(tmp_path, path) as other, one.delivering():
            assert await _look(one, shown, set()) == set()  # nobody asked for it
            await one.make(ACME, endpoint.url, by="user:root")
            for here in (one, other):
                told = await _look(here, shown, set())
                assert await _look(here, shown, told) == told
            found[:] = [quota(100, 100)]
            await _look(other, shown, told)
            found[:] = [quota(90, 100, key="2027-01-16")]
            await _look(one, shown, told)
            await one.all_done()
            what = sorted(
                (json.loads(body)["data"] for _, body in endpoint.got), key=lambda one: (one["key"], one["percent"])
            )
            assert [(one["key"], one["percent"], one["used"]) for one in what] == [
                ("2027-01-15", 80, 85),
                ("2027-01-15", 100, 100),
                ("2027-01-16", 80, 90),
            ]
            assert what[0] == {
                "tenant": "acme",
                "dimension": "calls",
                "period": "day",
                "key": "2027-01-15",
                "percent": 80,
                "used": 85,
                "limit": 100,
            }
            assert Reached.__struct_fields__ == tuple(what[0])

    asyncio.run(go())
