"""Whom a service tells what happens to a tenant, and what it still has to tell.

A hook belongs to a tenant, or to the whole host, and is told what happens to that one and all below it. What happens is
written as a *delivery* for each such hook, in the transaction that makes it true where its caller has one (`entry`),
and once, however often it is told: a delivery's id is made from the hook, the event and what it is about.

    what happened ──entry──▶ deliveries, due now ──▶ `Deliveries` ──▶ arrived, or given up: `hook.delivered`

The form is that of Standard Webhooks: `{"type", "timestamp", "data"}`, and the headers `webhook-id`,
`webhook-timestamp` and `webhook-signature`. A hook's secret is 256 random bits. It is shown once, and kept encrypted
with a key of the keys folder (`SECRET_FILE`); hosts that share a journal have to share that file, as any of them may
deliver.

What waits is bounded: `PENDING_MAX` deliveries of one hook. What comes beyond is given up at once, and logged as that.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal, NoReturn, TypeAlias, TypeVar, get_args
from urllib.parse import urlsplit

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from belljar.access import Principal, demand, permits
from belljar.audit import AuditLog
from belljar.audit.events import HookChanged, HookDelivered
from belljar.errors import AuditUnavailable, HostFault, InvalidInput
from belljar.identity import Tenant, tenants_below
from belljar.journal import Draft, Job, Journal
from belljar.journal.tables import DELIVERIES, HOOKS, DeliveryRow, HookRow
from belljar.keys import Keys

__all__ = ["BODY_BYTES_MAX", "HOOKS_MAX", "PENDING_MAX", "SECRET_FILE", "TOLD", "HookInfo", "Hooks", "Told"]

_T = TypeVar("_T")
Told: TypeAlias = Literal["run.ended", "quota.threshold"]
TOLD: Final[tuple[Told, ...]] = get_args(Told)

SECRET_FILE: Final = "hooks.key"  # noqa: S105 (a name)
HOOKS_MAX: Final = 100
PENDING_MAX: Final = 1000
BODY_BYTES_MAX: Final = 16 * 1024
_URL_CHARS_MAX: Final = 2000
_SUBJECT_CHARS_MAX: Final = 600
_NONCE_BYTES: Final = 12
_NEVER: Final = 2**62
_PREFIX: Final = "whsec_"
_ID: Final = re.compile(r"[0-9a-f]{16}")

By = Principal | str


class HookInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a hook: `told` are the events that it is told of. `tenant` None is the whole host."""

    id: str
    tenant: str | None
    url: str
    told: list[Told]
    since: datetime


class _Body(msgspec.Struct, frozen=True):
    type: str
    timestamp: datetime
    data: Any


class Hooks:
    """The hooks in a journal.

    Every method raises `AuditUnavailable` if the journal cannot be read or written, and then nothing was changed.

    Args:
        folder: has the key that their secrets are encrypted with.
        private: whether a hook may be on a private network or this machine, and be asked by http.
        clock: seconds since the epoch; the journal's when None.

    Raises:
        AuditUnavailable: the keys folder cannot be used.
    """

    def __init__(
        self,
        journal: Journal,
        audit: AuditLog,
        folder: Keys,
        *,
        private: bool = False,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.journal = journal
        self.private = private
        self.clock = journal.now if clock is None else clock
        self._audit = audit
        self._cipher = AESGCM(hmac.digest(folder.secret(SECRET_FILE), b"belljar hook secret", "sha256"))

    async def make(
        self, tenant: Tenant | None, url: str, *, told: tuple[Told, ...] = TOLD, by: By
    ) -> tuple[HookInfo, str]:
        """Set up a hook.

        Returns:
            What is known of it, and the secret of its signatures, which nobody can show again.

        Raises:
            InvalidInput: `hook.url`, `hook.told`; `hook.too_many`: its first-level tenant has `HOOKS_MAX`.
            AccessForbidden: `access.forbidden`.
        """
        if isinstance(by, Principal):
            demand(by, "hook.write", tenant)
        _check_url(url, private=self.private)
        if not told or not {*told} <= {*TOLD}:
            raise InvalidInput(f"a hook is told of {' or '.join(TOLD)}: name at least one", code="hook.told")
        hook_id, secret = secrets.token_hex(8), secrets.token_bytes(32)
        wrapped = self._wrapped(hook_id, secret)
        names = ",".join(name for name in TOLD if name in told)
        row = HookRow(hook_id, str(tenant or ""), url, names, wrapped, int(self.clock()), 0)

        def work(draft: Draft) -> None:
            first = row.tenant.partition("/")[0]
            held = draft.query(
                "SELECT count(*) FROM hooks WHERE tenant = ? OR (tenant > ? AND tenant < ?)",
                *(first, *tenants_below(first)),
            )[0][0]
            if held >= HOOKS_MAX:
                raise InvalidInput(
                    f"{first or 'the host'} has {HOOKS_MAX} hooks: remove those that nobody needs",
                    code="hook.too_many",
                    limit=HOOKS_MAX,
                    observed=HOOKS_MAX + 1,
                )
            draft.put(HOOKS, row)
            self._record(draft, by, row, "made")

        await self.do(work)
        return _info(row), f"{_PREFIX}{base64.b64encode(secret).decode()}"

    async def ls(self, tenant: Tenant | None = None) -> list[HookInfo]:
        """The hooks of a tenant and of all below it, or of all, by tenant; at most 10,000."""
        where, values = "", []
        if tenant is not None:
            where, values = "WHERE tenant = ? OR (tenant > ? AND tenant < ?)", [tenant, *tenants_below(tenant)]
        statement = f"SELECT {', '.join(HOOKS.columns)} FROM hooks {where} ORDER BY tenant, id LIMIT 10000"  # noqa: S608
        found = await self.do(lambda draft: draft.query(statement, *map(str, values)))
        return [_info(HOOKS.unpack(row)) for row in found]

    async def get(self, hook_id: str) -> HookInfo | None:
        """What is known of a hook; None if there is none."""
        if not _ID.fullmatch(hook_id):
            return None
        row = await self.do(lambda draft: draft.get(HOOKS, hook_id))
        return None if row is None else _info(row)

    async def remove(self, hook_id: str, *, by: By) -> None:
        """Remove a hook; what it was not told yet, it is never told.

        Raises:
            InvalidInput: `hook.missing`.
            AccessForbidden: `access.forbidden`.
        """

        def work(draft: Draft) -> None:
            row = draft.get(HOOKS, hook_id) if _ID.fullmatch(hook_id) else None
            if row is None:
                _refuse_missing(hook_id)
            tenant = Tenant(row.tenant) if row.tenant else None
            if isinstance(by, Principal):
                if not permits(by, "hook.read", tenant):
                    _refuse_missing(hook_id)
                demand(by, "hook.write", tenant)
            for (found,) in draft.query("SELECT id FROM deliveries WHERE hook = ?", hook_id):
                draft.remove(DELIVERIES, found)
            draft.remove(HOOKS, hook_id)
            self._record(draft, by, row, "removed")

        await self.do(work)

    def entry(
        self, told: Told, tenant: Tenant, subject: str, data: Any, *, once: str = "", at: int | None = None
    ) -> Job[int]:
        """The writing of what happened, for who writes something else in the same transaction.

        Args:
            subject: the run or tenant that it is about.
            data: what there is to say, as JSON; no contents of runs.
            once: what tells it from another event of this kind about the same subject.
            at: when it happened, in seconds since the epoch: hooks that were set up later do not hear of it. None is
                now.

        Gives how many hooks will be told.

        Raises:
            InvalidInput: `hook.too_long`.
        """
        now = self.clock()
        body = msgspec.json.encode(_Body(told, datetime.fromtimestamp(int(now), UTC), data))
        if len(body) > BODY_BYTES_MAX or len(subject) > _SUBJECT_CHARS_MAX:
            raise InvalidInput(
                f"{len(body)} bytes are too much to tell a hook: leave something out",
                code="hook.too_long",
                limit=BODY_BYTES_MAX,
                observed=len(body),
            )
        levels = ["", *map(str, tenant.levels)]
        statement = f"SELECT id, told FROM hooks WHERE since <= ? AND tenant IN ({', '.join('?' * len(levels))})"  # noqa: S608
        latest = _NEVER if at is None else at

        def work(draft: Draft) -> int:
            count = 0
            for hook, names in draft.query(statement, latest, *levels):
                if told in names.split(","):
                    count += self._put(draft, hook, told, subject, body, once, int(now))
            return count

        return Job(work)

    async def tell(
        self, told: Told, tenant: Tenant, subject: str, data: Any, *, once: str = "", at: int | None = None
    ) -> int:
        """`entry`, and wait until it is durable. Raises as that."""
        return await self.journal.submit(
            self.entry(told, tenant, subject, data, once=once, at=at), unavailable=AuditUnavailable
        )

    def unwrapped(self, row: HookRow) -> bytes:
        """The secret of a hook.

        Raises:
            HostFault: this host does not have the key that it was encrypted with.
        """
        try:
            return self._cipher.decrypt(row.secret[:_NONCE_BYTES], row.secret[_NONCE_BYTES:], row.id.encode())
        except InvalidTag:
            raise HostFault(
                f"the secret of hook {row.id} is of another host: put its {SECRET_FILE} into this one's keys folder"
            ) from None

    def delivered(self, draft: Draft, row: DeliveryRow, *, arrived: bool) -> None:
        """Put a delivery as it ended, with its record."""
        draft.put(DELIVERIES, row)
        event = HookDelivered(
            hook=row.hook, delivery=row.id, told=row.told, of=row.subject, attempts=row.attempts, arrived=arrived
        )
        self._audit.host_entry(event).work(draft)

    async def do(self, work: Callable[[Draft], _T]) -> _T:
        """One job of the journal."""
        return await self.journal.submit(Job(work), unavailable=AuditUnavailable)

    def _put(self, draft: Draft, hook: str, told: Told, subject: str, body: bytes, once: str, now: int) -> int:
        digest = hashlib.sha256("\n".join((hook, told, subject, once)).encode()).hexdigest()
        row = DeliveryRow(f"msg_{digest[:32]}", hook, told, subject, body, 0, now, now, 0, 0)
        if draft.query("SELECT id FROM deliveries WHERE id = ?", row.id):
            return 0
        waiting = draft.query("SELECT count(*) FROM deliveries WHERE hook = ? AND done_at = 0", hook)[0][0]
        if waiting >= PENDING_MAX:
            self.delivered(draft, row._replace(body=b"", done_at=max(now, 1)), arrived=False)
            return 0
        draft.put(DELIVERIES, row)
        return 1

    def _record(self, draft: Draft, by: By, row: HookRow, what: Literal["made", "removed"]) -> None:
        name = by.name if isinstance(by, Principal) else by
        event = HookChanged(by=name, hook=row.id, what=what, tenant=row.tenant or None)
        self._audit.host_entry(event).work(draft)

    def _wrapped(self, hook_id: str, secret: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, hook_id.encode())


def _info(row: HookRow) -> HookInfo:
    told = [name for name in TOLD if name in row.told.split(",")]
    since = datetime.fromtimestamp(row.since, UTC)
    return HookInfo(id=row.id, tenant=row.tenant or None, url=row.url, told=told, since=since)


def _check_url(text: str, *, private: bool) -> None:
    if len(text) > _URL_CHARS_MAX or not re.fullmatch(r"[!-~]+", text):
        _refuse_url("is no URL")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        _refuse_url("is no URL")
    if parts.username is not None or parts.fragment or not parts.hostname or port == 0:
        _refuse_url("is no URL without user, password and fragment")
    if parts.scheme != "https" and not (private and parts.scheme == "http"):
        _refuse_url("does not begin with https://")


def _refuse_url(why: str) -> NoReturn:
    raise InvalidInput(f"the address of a hook {why}; write one such as https://HOST/PATH", code="hook.url")


def _refuse_missing(hook_id: str) -> NoReturn:
    raise InvalidInput(f"there is no hook {hook_id[:80]!a}: list those that there are", code="hook.missing")
