"""What a journal holds: seventeen tables, and the row of each as Python has it.

    records        seq -> run, body, hash                    the audit log, append-only
    packs          block -> size, body                       its older records, as `packs` tells
    pack_runs      block, run -> low, high, many             where those of a run are
    limits         account, period -> bounds                 what an operator set
    runs           run -> tenant, owner, bounds, open?
    reservations   id -> run, when, state, asked, actual     one row each, changed only forward
    balances       account, key -> used, held                the sums of the reservations, kept up to date with them
    content_keys   run -> wrapped, until, gone               the key of a run's contents; none: they were erased
    contents       run, digest, part -> body                 what records name by digest, encrypted
    checkpoints    size -> note                              what was signed of the log's first records
    subtrees       block -> root                             of the log's tree, for each block of so many records
    api_keys       id -> hash, tenant, role, times           who may ask a service for something
    orders         run -> tenant, key, digest, state         the runs that a service was asked for
    hooks          id -> tenant, url, secret, what           whom a service tells of what happens
    deliveries     id -> hook, body, attempts, times         what it has to tell them

Reservations and balances make a *book*, and there are two of them: one of what calls and reads use, and one of what
boxes use (`box_reservations`, `box_balances`), so that a call, of which a run makes thousands, touches no column of the
other.

A row begins with its key. Amounts are vectors: whole numbers in the order of a book's dimensions, one column each in
the database; a bound has one for each of `DIMENSIONS`, and a limit more, for what no book counts (`LIMITED`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = [
    "API_KEYS",
    "APPEND_ONLY",
    "AT_ONCE",
    "BALANCES",
    "BOOKS",
    "BOXES",
    "BOX_BALANCES",
    "BOX_RESERVATIONS",
    "CALLS",
    "CHECKPOINTS",
    "CONTENTS",
    "CONTENT_KEYS",
    "DELIVERIES",
    "DIMENSIONS",
    "GAUGES",
    "HOOKS",
    "LIMITED",
    "LIMITS",
    "ORDERS",
    "PACKS",
    "PACK_RECORDS",
    "PACK_RUNS",
    "RECORDS",
    "RECORD_BYTES_MAX",
    "RESERVATIONS",
    "RUNS",
    "SUBTREES",
    "TABLES",
    "ApiKeyRow",
    "BalanceRow",
    "Book",
    "Bounds",
    "CheckpointRow",
    "ContentKeyRow",
    "ContentRow",
    "DeliveryRow",
    "HookRow",
    "Key",
    "LimitsRow",
    "OrderRow",
    "PackRow",
    "PackRunRow",
    "RecordRow",
    "ReservationRow",
    "RunRow",
    "SubtreeRow",
    "Table",
    "Vector",
    "columns",
]

# What is under way at this moment: it is held and given back, and never charged. The last dimension of each book.
GAUGES = ("calls_in_flight", "boxes")
_OF_CALLS = ("calls", "input_tokens", "output_tokens", "cost_nanousd", "read_bytes", GAUGES[0])
_OF_BOXES = ("cpu_ms", "wall_ms", "memory_mib_s", GAUGES[1])
DIMENSIONS = _OF_CALLS + _OF_BOXES
# What can be limited. The bytes of stored contexts are counted where they lie, by the stores; how deep a run is, its id
# says. Of these there is only the limit here.
LIMITED = (*DIMENSIONS, "context_bytes", "depth")
# What is limited at each moment, whatever the period.
AT_ONCE = (*GAUGES, *LIMITED[len(DIMENSIONS) :])

RECORD_BYTES_MAX = 65536  # a batch of a few hundred calls with their hashes
# The largest of them is 16 MB.
PACK_RECORDS = 256

Vector = tuple[int, ...]
# None: no bound.
Bounds = tuple[int | None, ...]


class RecordRow(NamedTuple):
    """One record of the log, as stored. `run` is what the body says."""

    seq: int
    run: str
    body: bytes
    hash: bytes


class PackRow(NamedTuple):
    """The records of one block: `size` bytes, compressed."""

    block: int
    size: int
    body: bytes


class PackRunRow(NamedTuple):
    """A run in a pack: its first and its last record there, and how many it has there."""

    block: int
    run: str
    low: int
    high: int
    many: int


class LimitsRow(NamedTuple):
    """What may be used and held on one account in one period; `bounds` are in the order of `LIMITED`."""

    account: str
    period: str
    bounds: Bounds


class RunRow(NamedTuple):
    """Whose a run is, the process that owns it, and its limits in JSON."""

    run: str
    tenant: str
    owner: str
    run_limits: bytes
    tenant_limits: bytes
    is_open: int


class ReservationRow(NamedTuple):
    """`actual` is None in each dimension until it has ended.

    `made_at` is the minute (UTC) that it was made in; of one that an older version made, the day. `short` names the
    pages of minutes and hours on which it stands besides all others, as `accounts` writes them.
    """

    id: str
    run: str
    made_at: str
    short: str
    state: str
    asked: Vector
    actual: Bounds


class BalanceRow(NamedTuple):
    """One account in one period: what was charged, and what open reservations hold."""

    account: str
    key: str
    used: Vector
    held: Vector


class ContentKeyRow(NamedTuple):
    """The key of one run's contents, wrapped with the host key that `host_key` tells from others.

    They may go at `until`, in seconds since the epoch. `wrapped` is None once they have, and `gone` then says why; then
    `until` is 1 while bodies may be left, and 0 afterwards.
    """

    run: str
    host_key: bytes
    wrapped: bytes | None
    until: int
    gone: str | None


class ContentRow(NamedTuple):
    """One part of a content, counted from 0, encrypted."""

    run: str
    digest: bytes
    part: int
    body: bytes


class CheckpointRow(NamedTuple):
    """The signed note on the first `size` records."""

    size: int
    note: bytes


class SubtreeRow(NamedTuple):
    """The root of the tree over one block of the log's records; how many they are, who writes it knows."""

    block: int
    root: bytes


_Row = TypeVar("_Row", bound="tuple[Any, ...]")


class ApiKeyRow(NamedTuple):
    """One API key: `hash` is SHA-256 of its secret, which nobody keeps. Times are seconds since the epoch, 0 for never.

    `used_at` is when it was last used, to a minute.
    """

    id: str
    hash: bytes
    label: str
    tenant: str
    role: str
    since: int
    until: int
    gone_at: int
    used_at: int


class OrderRow(NamedTuple):
    """A run that a service was asked for: `asked_by` whom, under which `idem` key ("" for none), with which request.

    `digest` is SHA-256 of the request, of which no more is kept. `state` is `queued`, `running`, or how it ended.
    `again` is the run that a retry with the same key made of an interrupted one. Times are seconds since the epoch.
    """

    run: str
    tenant: str
    asked_by: str
    idem: str
    digest: bytes
    state: str
    owner: str
    again: str
    since: int
    ended_at: int


class HookRow(NamedTuple):
    """Whom a service tells what happens to a tenant: `told` are names of events, with commas between them.

    `secret` is the key of its signatures, wrapped with the host's.
    """

    id: str
    tenant: str
    url: str
    told: str
    secret: bytes
    since: int
    gone_at: int


class DeliveryRow(NamedTuple):
    """One message to a hook: `done_at` is 0 until it has arrived or was given up, and it is due at `next_at`."""

    id: str
    hook: str
    told: str
    subject: str
    body: bytes
    attempts: int
    since: int
    next_at: int
    done_at: int
    status: int


@dataclass(frozen=True, eq=False)
class Table(Generic[_Row]):
    """One table: its columns in order, of which the first `keys` find a row.

    `pack` and `unpack` turn a row into its columns and back. Rows of a table that is not `kept` are written once and
    never looked for again, so they are not held in memory.
    """

    name: str
    columns: tuple[str, ...]
    keys: int
    pack: Callable[[_Row], tuple[Any, ...]]
    unpack: Callable[[tuple[Any, ...]], _Row]
    kept: bool = True

    def key_of(self, row: _Row) -> tuple[Any, ...]:
        return row[: self.keys]


Key = tuple[Table[Any], tuple[Any, ...]]


def columns(template: str = "{}", names: tuple[str, ...] = DIMENSIONS) -> tuple[str, ...]:
    """`template` once for each name."""
    return tuple(template.format(name) for name in names)


RECORDS = Table("records", RecordRow._fields, 1, tuple, RecordRow._make, kept=False)
PACKS = Table("packs", PackRow._fields, 1, tuple, PackRow._make, kept=False)
PACK_RUNS = Table("pack_runs", PackRunRow._fields, 2, tuple, PackRunRow._make, kept=False)
# Their rows are never changed.
APPEND_ONLY = (RECORDS, PACKS)
LIMITS = Table(
    "limits",
    ("account", "period", *columns(names=LIMITED)),
    2,
    lambda row: (*row[:2], *row.bounds),
    lambda found: LimitsRow(found[0], found[1], found[2:]),
)
RUNS = Table("runs", RunRow._fields, 1, tuple, RunRow._make)


def _reservations(name: str, dimensions: tuple[str, ...]) -> Table[ReservationRow]:
    middle = 5 + len(dimensions)
    return Table(
        name,
        ("id", "run", "made_at", "short", "state", *dimensions, *columns("actual_{}", dimensions)),
        1,
        lambda row: (*row[:5], *row.asked, *row.actual),
        lambda found: ReservationRow(found[0], found[1], found[2], found[3], found[4], found[5:middle], found[middle:]),
    )


def _balances(name: str, dimensions: tuple[str, ...]) -> Table[BalanceRow]:
    middle = 2 + len(dimensions)
    return Table(
        name,
        ("account", "key", *columns("used_{}", dimensions), *columns("held_{}", dimensions)),
        2,
        lambda row: (*row[:2], *row.used, *row.held),
        lambda found: BalanceRow(found[0], found[1], found[2:middle], found[middle:]),
    )


RESERVATIONS = _reservations("reservations", _OF_CALLS)
BALANCES = _balances("balances", _OF_CALLS)
BOX_RESERVATIONS = _reservations("box_reservations", _OF_BOXES)
BOX_BALANCES = _balances("box_balances", _OF_BOXES)
CONTENT_KEYS = Table("content_keys", ContentKeyRow._fields, 1, tuple, ContentKeyRow._make)
CONTENTS = Table("contents", ContentRow._fields, 3, tuple, ContentRow._make, kept=False)
CHECKPOINTS = Table("checkpoints", CheckpointRow._fields, 1, tuple, CheckpointRow._make, kept=False)
SUBTREES = Table("subtrees", SubtreeRow._fields, 1, tuple, SubtreeRow._make, kept=False)
API_KEYS = Table("api_keys", ApiKeyRow._fields, 1, tuple, ApiKeyRow._make)
ORDERS = Table("orders", OrderRow._fields, 1, tuple, OrderRow._make)
HOOKS = Table("hooks", HookRow._fields, 1, tuple, HookRow._make)
DELIVERIES = Table("deliveries", DeliveryRow._fields, 1, tuple, DeliveryRow._make, kept=False)
TABLES: tuple[Table[Any], ...] = (
    RECORDS,
    LIMITS,
    RUNS,
    RESERVATIONS,
    BALANCES,
    BOX_RESERVATIONS,
    BOX_BALANCES,
    CONTENT_KEYS,
    CONTENTS,
    CHECKPOINTS,
    API_KEYS,
    ORDERS,
    HOOKS,
    DELIVERIES,
    SUBTREES,
    PACKS,
    PACK_RUNS,
)


@dataclass(frozen=True, eq=False)
class Book:
    """Reservations in some dimensions, and their sums. `first` is the place of the first of them in `DIMENSIONS`."""

    dimensions: tuple[str, ...]
    first: int
    reservations: Table[ReservationRow]
    balances: Table[BalanceRow]

    @functools.cached_property
    def places(self) -> slice:
        return slice(self.first, self.first + len(self.dimensions))

    @functools.cached_property
    def nothing(self) -> Vector:
        return (0,) * len(self.dimensions)


CALLS = Book(_OF_CALLS, 0, RESERVATIONS, BALANCES)
BOXES = Book(_OF_BOXES, len(_OF_CALLS), BOX_RESERVATIONS, BOX_BALANCES)
BOOKS = (CALLS, BOXES)
