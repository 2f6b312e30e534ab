"""API keys: made, listed, replaced, revoked, and checked.

A key is the text `bj_ID_SECRET`. The id tells keys apart, in lists and in the log, and begins with the second in which
the key was made, so ids sort by age. The secret is 256 random bits, so nobody can guess one, and a hash that is fast to
compute protects it as well as a slow one. The journal has SHA-256 of the whole text; the text itself is nowhere, and
whoever loses it makes another key.

    made ──▶ in force ──▶ expired at `until`
               │  ╲
               │   ╲──▶ replaced (`rotate`): a key like it, which lives as long; this one ends, after an overlap
               └──────▶ revoked

What was decided of a key never changes: tenant, role, label and `until` stay. Each act is written
with its record (`access.changed`) in one transaction.

**How fast an end is felt.** A key that was found good is believed for `BELIEVED_S` seconds without asking the journal.
An act of this process is felt at once, one of another process within that time. `until` is compared each time, by the
journal's clock, which all hosts share.

**Whoever uses it.** When a key was last used is written at most once a minute for each key, and no request waits for
that.

**How many.** A first-level tenant, with all below it, has at most `KEYS_MAX` keys; and the whole host
has as many of its own. Beyond that, the one that ended first makes room for a new one (its records stay in the log).

A tenant is a name and nothing that would be renamed or deleted. A key of a tenant that nobody uses any more goes on
naming it, and gives access to what its name still has: revoke it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import re
import secrets
import time
from asyncio import Future
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NoReturn, TypeVar

import msgspec

from belljar.access.roles import Principal, check_scope, grants, permits
from belljar.audit import AuditLog
from belljar.audit.events import AccessChanged
from belljar.errors import AccessDenied, AccessForbidden, AuditUnavailable, InvalidInput
from belljar.identity import ROLES, Role, Tenant, tenants_below
from belljar.journal import Ask, Draft, Job, Journal
from belljar.journal.tables import API_KEYS, ApiKeyRow

__all__ = ["BELIEVED_S", "KEYS_MAX", "PREFIX", "ApiKeys", "By", "KeyInfo", "listed"]

PREFIX: Final = "bj_"
BELIEVED_S: Final = 3.0
KEYS_MAX: Final = 10_000
# Rows of keys in memory, of half a kilobyte each.
_REMEMBERED_MAX: Final = 10_000
_LISTED_MAX: Final = 1000
_USED_S: Final = 60
_LABEL_CHARS_MAX: Final = 200
_OVERLAP_S_MAX: Final = 30 * 86_400
_YEARS_MAX: Final = 100
_FORM: Final = re.compile(r"bj_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")
_ID: Final = re.compile(r"[0-9a-f]{16}")
_SELECT: Final = f"SELECT {', '.join(API_KEYS.columns)} FROM api_keys"  # noqa: S608 (constants)
_USED: Final = (
    f"{_SELECT} WHERE used_at > 0 AND (gone_at = 0 OR gone_at > ?) AND (until = 0 OR until > ?)"
    " ORDER BY used_at DESC, id LIMIT ?"
)
_WITHIN: Final = "(tenant = ? OR (tenant > ? AND tenant < ?))"
_NO_HASH: Final = bytes(32)
_NEVER: Final = 2**62

_T = TypeVar("_T")
_log = logging.getLogger("belljar")

# Who acts: somebody who asks a service, and must be allowed to; or a name for the log, of whoever has the host's files
# and needs nobody's leave.
By = Principal | str


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a key.

    Attributes:
        tenant: None is the whole host.
        state: `ended` is revoked or replaced.
        since, until: when it was made, and when it expires; None: never.
        ends_at: when it was revoked or replaced, or will be, where a replaced one is still taken.
        used_at: when it was last used, to the minute.
    """

    id: str
    label: str
    tenant: str | None
    role: Role
    state: Literal["active", "expired", "ended"]
    since: datetime
    until: datetime | None
    ends_at: datetime | None
    used_at: datetime | None


class ApiKeys:
    """The keys in a journal, for one event loop.

    Every method raises `AuditUnavailable` if the journal cannot be read or written: then nobody is let in, and nothing
    was changed.

    Args:
        age_max: how long a key may live; None is for ever.
        clock: seconds since the epoch; the journal's, which all its writers share, when None.
        steady: seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        journal: Journal,
        audit: AuditLog,
        *,
        age_max: timedelta | None = None,
        clock: Callable[[], float] | None = None,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._audit = audit
        self._age_max = age_max
        self._clock = journal.now if clock is None else clock
        self._steady = steady
        # What was found when; the one that was used last is the last.
        self._rows: OrderedDict[str, tuple[ApiKeyRow, float]] = OrderedDict()
        self._noted: dict[str, int] = {}

    # -- changing ----------------------------------------------------------------------------------------------------

    async def make(
        self, tenant: Tenant | None, role: Role, *, label: str = "", until: datetime | None = None, by: By
    ) -> tuple[KeyInfo, str]:
        """Make a key.

        Args:
            tenant: what it acts on; None is the whole host.
            label: what it is for, at most 200 characters.
            until: when it expires; None is never, or after the greatest age that is allowed.

        Returns:
            What is known of it, and its text, which nobody can show again.

        Raises:
            InvalidInput: `access.scope`, `key.label`, `key.until`; `key.too_many`.
            AccessForbidden: `access.forbidden`.
        """
        new, text = self._new(tenant, role, label, until, by)

        def work(draft: Draft) -> None:
            self._insert(draft, new)
            self._record(draft, by, new, "made")

        await self._do(work)
        return self._info(new), text

    async def make_first(self, *, by: str) -> tuple[KeyInfo, str] | None:
        """Make an `admin` key if nobody has one that is in force; None if somebody has. Of many processes one does."""
        new, text = self._new(None, "admin", "the first key", None, by)

        def work(draft: Draft) -> bool:
            now = int(self._clock())
            found = draft.query(
                "SELECT id FROM api_keys WHERE role = ? AND (gone_at = 0 OR gone_at > ?)"
                " AND (until = 0 OR until > ?) LIMIT 1",
                *("admin", now, now),
            )
            if found:
                return False
            self._insert(draft, new)
            self._record(draft, by, new, "made")
            return True

        return (self._info(new), text) if await self._do(work) else None

    async def rotate(self, key_id: str, *, by: By, overlap_s: int = 0) -> tuple[KeyInfo, str]:
        """Replace a key by another one with the same tenant, role and label, which lives as long as it was made for.

        Args:
            overlap_s: for how many seconds the old one is still taken, at most 30 days.

        Returns:
            What is known of the new one, and its text.

        Raises:
            InvalidInput: `key.missing`; `key.ended`: it is no longer in force; `key.overlap`; `key.too_many`.
            AccessForbidden: `access.forbidden`.
        """
        if not 0 <= overlap_s <= _OVERLAP_S_MAX:
            raise InvalidInput(
                f"an overlap of {overlap_s} s is not possible: choose one of 0 to {_OVERLAP_S_MAX} s (30 days)",
                code="key.overlap",
                limit=_OVERLAP_S_MAX,
                observed=overlap_s,
            )
        name, text, digest = _secret(self._clock())

        def work(draft: Draft) -> ApiKeyRow:
            now = int(self._clock())
            old = self._own(draft, key_id, by)
            if _state(old, now) != "active":
                raise InvalidInput(f"the key {key_id} is no longer in force: make a new one", code="key.ended")
            latest = self._latest(now)
            until = min(now + old.until - old.since, latest or _NEVER) if old.until else latest
            new = ApiKeyRow(name, digest, old.label, old.tenant, old.role, now, until, 0, 0)
            draft.put(API_KEYS, old._replace(gone_at=min(old.gone_at or _NEVER, now + overlap_s)))
            self._insert(draft, new)
            self._record(draft, by, old, "rotated", next_=name)
            return new

        new = await self._do(work)
        self._forget(key_id)
        return self._info(new), text

    async def revoke(self, key_id: str, *, by: By) -> KeyInfo:
        """End a key now. One that has ended already stays as it is.

        Raises:
            InvalidInput: `key.missing`.
            AccessForbidden: `access.forbidden`.
        """

        def work(draft: Draft) -> ApiKeyRow:
            old, now = self._own(draft, key_id, by), int(self._clock())
            if _state(old, now) == "ended":
                return old
            gone = old._replace(gone_at=now)
            draft.put(API_KEYS, gone)
            self._record(draft, by, old, "revoked")
            return gone

        gone = await self._do(work)
        self._forget(key_id)
        return self._info(gone)

    # -- asking ------------------------------------------------------------------------------------------------------

    async def ls(self, tenant: Tenant | None = None, *, after: str = "", limit: int = _LISTED_MAX) -> list[KeyInfo]:
        """The keys of a tenant and of all below it, or all, the oldest first; those that have ended, too.

        Args:
            after: the id of the last one that was seen.
            limit: at most so many, and at most 1000.
        """
        return await self._do(lambda draft: listed(draft.query, self._clock(), tenant, after=after, limit=limit))

    async def get(self, key_id: str) -> KeyInfo:
        """What is known of a key.

        Raises:
            InvalidInput: `key.missing`.
        """
        return self._info(await self._do(lambda draft: _found(draft, key_id)))

    async def check(self, text: str) -> Principal:
        """Who shows this key.

        Raises:
            AccessDenied: `access.unknown`: there is no such key; `access.expired`, `access.revoked`.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise _unknown()
        row = await self._row(match[1])
        if not _is_its(row, text) or row is None:
            raise _unknown()
        return self._in_force(row)

    async def check_id(self, key_id: str) -> Principal:
        """Who showed the key with this id before, if it is still in force: for what lasts, as a session does.

        Raises:
            AccessDenied: `access.unknown`, `access.expired`, `access.revoked`.
        """
        row = await self._row(key_id)
        if row is None:
            raise _unknown()
        return self._in_force(row)

    async def recall(self) -> None:
        """Know (`knows`) the keys in force that were used last before this process began.

        Else all would be new to it, and who has others fail from a proxy's address would keep out whoever is behind it.
        """

        def work(draft: Draft) -> list[ApiKeyRow]:
            now = int(self._clock())
            return [API_KEYS.unpack(row) for row in draft.query(_USED, now, now, _REMEMBERED_MAX)]

        for row in reversed(await self._do(work)):
            self._rows[row.id] = row, -math.inf  # known, and not believed

    def knows(self, text: str) -> bool:
        """Whether this was a good key when it was last seen or recalled. Asks nobody; it may have ended since."""
        match = _FORM.fullmatch(text)
        remembered = None if match is None else self._rows.get(match[1])
        return remembered is not None and _is_its(remembered[0], text)

    async def _row(self, key_id: str) -> ApiKeyRow | None:
        remembered = self._rows.get(key_id)
        if remembered is not None and self._steady() < remembered[1] + BELIEVED_S:
            self._rows.move_to_end(key_id)
            return remembered[0]
        asked = self._steady()
        row = await self._do(lambda draft: draft.get(API_KEYS, key_id))
        self._rows.pop(key_id, None)
        if row is None:
            self._noted.pop(key_id, None)
            return None
        self._rows[key_id] = row, asked
        if len(self._rows) > _REMEMBERED_MAX:
            self._forget(next(iter(self._rows)))
        return row

    def _forget(self, key_id: str) -> None:
        self._rows.pop(key_id, None)
        self._noted.pop(key_id, None)

    def _in_force(self, row: ApiKeyRow) -> Principal:
        now = int(self._clock())
        match _state(row, now):
            case "ended":
                raise AccessDenied("this key was revoked: ask for another one", code="access.revoked")
            case "expired":
                raise AccessDenied("this key has expired: ask for another one", code="access.expired")
            case "active":
                self._note_use(row, now)
        return Principal(f"key:{row.id}", _tenant(row), _role(row))

    def _note_use(self, row: ApiKeyRow, now: int) -> None:
        minute = now // _USED_S * _USED_S
        if minute <= max(row.used_at, self._noted.get(row.id, 0)):
            return
        self._noted[row.id] = minute

        def work(draft: Draft) -> None:
            found = draft.get(API_KEYS, row.id)
            if found is not None and found.used_at < minute:
                draft.put(API_KEYS, found._replace(used_at=minute))

        writing = self._journal.submit(Job(work, ((API_KEYS, (row.id,)),)), lazy=True, unavailable=AuditUnavailable)
        writing.add_done_callback(_tell_if_lost)

    # -- inside a transaction ----------------------------------------------------------------------------------------

    def _new(
        self, tenant: Tenant | None, role: Role, label: str, until: datetime | None, by: By
    ) -> tuple[ApiKeyRow, str]:
        check_scope(role, tenant)
        if isinstance(by, Principal) and not grants(by, role, tenant):
            _forbid(by, role, tenant)
        if len(label) > _LABEL_CHARS_MAX or not label.isprintable():
            raise InvalidInput(
                f"the label of a key has at most {_LABEL_CHARS_MAX} printable characters: choose another one",
                code="key.label",
                limit=_LABEL_CHARS_MAX,
                observed=len(label),
            )
        now = int(self._clock())
        name, text, digest = _secret(now)
        return ApiKeyRow(name, digest, label, str(tenant or ""), role, now, self._until(until, now), 0, 0), text

    def _until(self, until: datetime | None, now: int) -> int:
        latest = self._latest(now)
        if until is None:
            return latest
        if until.tzinfo is None:
            raise InvalidInput("the end of a key needs a time zone, such as 2027-01-31T00:00:00Z", code="key.until")
        at = int(until.timestamp())
        if at <= now:
            raise InvalidInput(f"{until.isoformat()} is over: choose a later end of the key", code="key.until")
        if at > now + _YEARS_MAX * 366 * 86_400:
            raise InvalidInput("the end of a key is too far away: leave it out for none", code="key.until")
        if latest and at > latest:
            raise InvalidInput(
                f"a key lives until {_time(latest).isoformat()} at most (access.key_days_max): choose an earlier end",
                code="key.until",
            )
        return at

    def _latest(self, now: int) -> int:
        """When a key that is made now expires at the latest; 0: never."""
        return 0 if self._age_max is None else now + int(self._age_max.total_seconds())

    def _insert(self, draft: Draft, new: ApiKeyRow) -> None:
        if draft.get(API_KEYS, new.id) is not None:  # the same second, and the same 32 bits
            raise AuditUnavailable("two keys were to have the same id: try again")
        first = new.tenant.partition("/")[0]
        held = draft.query(
            f"SELECT count(*) FROM api_keys WHERE {_WITHIN}",  # noqa: S608 (constants)
            *_subtree(first),
        )[0][0]
        if held >= KEYS_MAX:
            self._make_room(draft, first)
        draft.put(API_KEYS, new)

    def _make_room(self, draft: Draft, first: str) -> None:
        now = int(self._clock())
        found = draft.query(
            f"SELECT id FROM api_keys WHERE {_WITHIN}"  # noqa: S608 (constants)
            " AND ((gone_at > 0 AND gone_at <= ?) OR (until > 0 AND until <= ?))"
            " ORDER BY CASE WHEN gone_at > 0 THEN gone_at ELSE until END, id LIMIT 1",
            *(*_subtree(first), now, now),
        )
        if not found:
            raise InvalidInput(
                f"{first or 'the host'} has {KEYS_MAX} keys in force: revoke those that nobody needs",
                code="key.too_many",
                limit=KEYS_MAX,
                observed=KEYS_MAX + 1,
            )
        draft.remove(API_KEYS, found[0][0])

    def _own(self, draft: Draft, key_id: str, by: By) -> ApiKeyRow:
        """The key, if `by` may change it. That there is one, only those hear who may see it."""
        row = _found(draft, key_id)
        if isinstance(by, Principal):
            if not permits(by, "key.read", _tenant(row)):
                _refuse_missing(key_id)
            if not grants(by, _role(row), _tenant(row)):
                _forbid(by, _role(row), _tenant(row))
        return row

    def _record(
        self,
        draft: Draft,
        by: By,
        row: ApiKeyRow,
        what: Literal["made", "rotated", "revoked"],
        next_: str | None = None,
    ) -> None:
        name = by.name if isinstance(by, Principal) else by
        event = AccessChanged(by=name, key=row.id, what=what, tenant=row.tenant or None, role=row.role, next=next_)
        self._audit.host_entry(event).work(draft)

    async def _do(self, work: Callable[[Draft], _T]) -> _T:
        return await self._journal.submit(Job(work), unavailable=AuditUnavailable)

    def _info(self, row: ApiKeyRow) -> KeyInfo:
        return _info(row, int(self._clock()))


def listed(
    ask: Ask, now: float, tenant: Tenant | None = None, *, after: str = "", limit: int = _LISTED_MAX
) -> list[KeyInfo]:
    """`ApiKeys.ls`, of whatever answers a SELECT."""
    where: str = "id > ?"
    values: list[object] = [after]
    if tenant is not None:
        where += f" AND {_WITHIN}"
        values += _subtree(tenant)
    found = ask(f"{_SELECT} WHERE {where} ORDER BY id LIMIT ?", *values, max(1, min(limit, _LISTED_MAX)))
    return [_info(API_KEYS.unpack(row), int(now)) for row in found]


def _subtree(tenant: str) -> tuple[str, str, str]:
    """What `_WITHIN` asks for: a tenant and those below it. Below "" is none."""
    return str(tenant), *tenants_below(tenant)


def _secret(now: float) -> tuple[str, str, bytes]:
    """An id, the text of the key, and its hash."""
    name = f"{int(now) % 2**32:08x}{secrets.token_hex(4)}"
    text = f"{PREFIX}{name}_{secrets.token_urlsafe(32)}"
    return name, text, _hash(text)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _is_its(row: ApiKeyRow | None, text: str) -> bool:
    """Whether `text` is the key of this row. It takes as long where there is no row."""
    return hmac.compare_digest(_NO_HASH if row is None else row.hash, _hash(text))


def _state(row: ApiKeyRow, now: int) -> Literal["active", "expired", "ended"]:
    if row.gone_at and row.gone_at <= now:
        return "ended"
    return "expired" if row.until and row.until <= now else "active"


def _info(row: ApiKeyRow, now: int) -> KeyInfo:
    return KeyInfo(
        id=row.id,
        label=row.label,
        tenant=row.tenant or None,
        role=_role(row),
        state=_state(row, now),
        since=_time(row.since),
        until=_time(row.until) if row.until else None,
        ends_at=_time(row.gone_at) if row.gone_at else None,
        used_at=_time(row.used_at) if row.used_at else None,
    )


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _tenant(row: ApiKeyRow) -> Tenant | None:
    return Tenant(row.tenant) if row.tenant else None


def _role(row: ApiKeyRow) -> Role:
    if row.role not in ROLES:
        raise AuditUnavailable(f"the key {row.id} has a role that is not one of ours: set the journal aside")
    return row.role


def _found(draft: Draft, key_id: str) -> ApiKeyRow:
    row = draft.get(API_KEYS, key_id) if _ID.fullmatch(key_id) else None
    return _refuse_missing(key_id) if row is None else row


def _refuse_missing(key_id: str) -> NoReturn:
    raise InvalidInput(f"there is no key {key_id[:80]!a}: list the keys to find it", code="key.missing")


def _unknown() -> AccessDenied:
    return AccessDenied("this is no key of this host: check it, or ask for another one", code="access.unknown")


def _forbid(by: Principal, role: Role, tenant: Tenant | None) -> NoReturn:
    raise AccessForbidden(
        f"the role {by.role} of {by.tenant or 'the host'} may not give or take keys of {role} of "
        f"{tenant or 'the host'}: ask somebody with a wider role",
        code="access.forbidden",
    )


def _tell_if_lost(writing: Future[None]) -> None:
    if not writing.cancelled() and (error := writing.exception()) is not None:
        _log.warning("belljar: when a key was last used could not be written (%s); the next use is", error)
