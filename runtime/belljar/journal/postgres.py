"""The store that several hosts share: one schema in a PostgreSQL database, version 15 or later.

All writers use one chain of records and one lock, the row of `head`; its `round` counts the transactions that wrote
(`pgschema`). Tenants share their root's balances, so with a chain for each host transactions would still take turns
there; and a single chain is verified in one pass.

A round goes one of two ways:

* **Lock first.** BEGIN; lock `head`, which waits for whoever holds it; if `round` has changed since our last
  transaction, forget what was remembered; load, write, COMMIT. That is five trips to the server or more.
* **Optimistic.** If nobody else wrote before the last round, probably nobody has since. `begin` sends nothing. If the
  memory has every row that the jobs want, the round is one statement and one trip: a transaction of its own that writes
  only if `round` is still the number that we know. If it is not, the round is run again, lock first. A round that
  writes nothing checks `round` in the same way, because what it read from memory must be true as well.

**A commit in doubt.** The connection can break after a commit was sent and before it was answered. A new connection
then raises `round` itself. That waits for the old transaction to end; and an old statement that has not even arrived
will find another number and write nothing. After that, our row in `hosts` says which round of ours was the last. Its
own commit comes later in the server's log, so it also proves that what it found is as durable. Only if this cannot be
decided in time is the round reported as failed although it may have been written: its callers have to repeat it in a
way that does no harm, as `Ledger` does.

**A host that keeps the lock.** A host that stops or is cut off inside a transaction holds the lock until the server
ends the transaction. The server does so soon if it waits for the next statement. But it would wait for ever for the
rest of one (asyncpg sends a statement that is new to the server in two parts). So a host that waited for the lock in
vain ends such connections, which any session of the same user may do, and tries again.

**Who is alive.** A host is one open store. Its row in `hosts` is inserted when it opens and deleted when it closes.
Every write, and a pulse every few seconds, records there when the host was last seen, by the server's clock. Whoever
wants to end what dead hosts left behind first deletes, under the lock, the rows that are older than a lease. A write
needs the row of its host, so a host that was only slow or stopped writes nothing afterwards, whatever its own clock
says; it has to be opened again, under another name.

**The time.** Periods begin by the server's clock, for all hosts alike. A host asks for it when it opens and with each
pulse, and goes on from there by its own monotonic clock; so a wrong clock of a host, or one that jumps, does no harm.

Only the journal's thread calls the store, except for opening it: that takes a thread of its own, because an event loop
cannot run inside another, and the opener may be in one.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from belljar.errors import BelljarError
from belljar.journal.draft import Stale, StoreError
from belljar.journal.pgschema import LOCK, NOW, TIME, VERSION, Shape, load_statement, prepare, version, write_statement
from belljar.journal.pgserver import Locked, Lost, Server, Unanswered, numbered
from belljar.journal.tables import TABLES, Key, Table

__all__ = ["PostgresStore", "formats"]

_Row = TypeVar("_Row", bound="tuple[Any, ...]")

_PATIENCE_S: Final = 10.0  # as long as SQLite waits for a lock
_PULSE_S: Final = 15.0

# Except ourselves: we are alive.
_REMOVE_DEAD: Final = (
    "DELETE FROM belljar.hosts WHERE seen < clock_timestamp() - make_interval(secs => $1) AND name <> $2 RETURNING name"
)
# Not journals in other databases, nor a statement that may still arrive.
_END_STUCK: Final = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'belljar' AND datname = current_database() AND usename = current_user
        AND state = 'active' AND wait_event = 'ClientRead'
        AND state_change < clock_timestamp() - make_interval(secs => $1)"""


class PostgresStore:
    """`Store` in a PostgreSQL database.

    Args:
        url: `postgresql://user@host:port/database`, with options as libpq has them; several hosts are tried in order.
        name: what to call it in messages.
        unavailable: makes the exception for what keeps it from being opened.
        patience_s: seconds that a lock, a statement, or a new connection may take.
        pulse_s: seconds between two signs of life; a lease has to be several times as long.

    Raises:
        whatever `unavailable` makes, if the database cannot be used or is something else.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        unavailable: Callable[[str], BelljarError],
        patience_s: float = _PATIENCE_S,
        pulse_s: float = _PULSE_S,
    ) -> None:
        self.pulse_s: float | None = pulse_s
        self.host = f"{socket.gethostname()[:200]}-{secrets.token_hex(8)}"
        self._whole_s = patience_s
        self._server = Server(url, patience_s=patience_s)
        self._pending: dict[Key, Any] = {}
        self._entered = False
        self._seen: int | None = None  # `round` after our last transaction; None: not known
        self._now = 0  # the same inside this transaction
        self._optimistic = False
        self._ahead_s = 0.0  # the server's clock less our monotonic one
        try:
            _in_a_thread(self._open)
        except StoreError as error:
            raise unavailable(f"cannot open {name}: {error}") from error

    def _open(self) -> None:
        try:
            self._server.connect()
            prepare(self._server, self.host)
            self._note_time(NOW)
        except BaseException:
            self._server.close()
            raise

    @property
    def patience_s(self) -> float:
        return self._server.patience_s

    @patience_s.setter
    def patience_s(self, seconds: float) -> None:
        self._server.patience_s = seconds

    # -- a transaction -----------------------------------------------------------------------------------------------

    def begin(self) -> bool:
        if self._optimistic and self._server.is_open:
            return False
        return self._enter()

    def load(self, table: Table[_Row], keys: Sequence[tuple[Any, ...]]) -> list[_Row]:
        self._lock_first()
        columns = [[key[place] for key in keys] for place in range(table.keys)]
        return [table.unpack(row) for row in self._server.fetch(_load(table), *columns)]

    def query(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        self._lock_first()
        self._write()
        return self._server.fetch(numbered(statement), *values)

    def save(self, changes: Mapping[Key, Any]) -> None:
        self._pending.update(changes)

    def commit(self) -> None:
        if not self._entered and not self._pending:
            self._refuse_stale(self._ask("SELECT round FROM belljar.head"))
            return
        before = self._seen
        try:
            self._write()
            if self._entered:
                self._end()
            in_doubt = self._server.warned
        except (Lost, Unanswered):
            in_doubt = True
        self._entered = False
        if not in_doubt:
            self._seen = self._now
            return
        self._seen, self._optimistic = None, False
        if self._now != before and not self._was_committed(self._now):
            raise Lost("the connection to the server was lost before a commit; check the network")

    def rollback(self) -> None:
        self._pending.clear()
        entered, self._entered = self._entered, False
        if entered and self._server.is_open:
            try:
                self._server.execute("ROLLBACK")
            except StoreError:
                self._server.drop()

    def living(self, lease_s: float) -> set[str]:
        self._lock_first()
        self._write()
        if self._server.fetch(_REMOVE_DEAD, lease_s, self.host):
            self._send((), [])  # a round of its own: if its commit is in doubt, that can be decided
        return {str(name) for (name,) in self._server.fetch("SELECT name FROM belljar.hosts")}

    def removed(self) -> bool:
        self._lock_first()
        return not self._server.fetch("SELECT name FROM belljar.hosts WHERE name = $1", self.host)

    def pulse(self) -> None:
        with contextlib.suppress(StoreError):
            self._connect()
            self._note_time(
                f"UPDATE belljar.hosts SET seen = clock_timestamp() WHERE name = $1 RETURNING {TIME}",  # noqa: S608
                self.host,
            )

    def now(self) -> float:
        return time.monotonic() + self._ahead_s

    def _note_time(self, statement: str, *values: object) -> None:
        """Run a statement that gives the server's time; of what its answer took, half was on the way back."""
        asked = time.monotonic()
        rows = self._server.fetch(statement, *values)
        if rows:
            self._ahead_s = rows[0][0] - (asked + time.monotonic()) / 2

    def forget(self) -> None:
        self._server.forget()

    def close(self) -> None:
        if self._server.is_open:
            with contextlib.suppress(StoreError):  # the row then stays, and gets old
                self._server.fetch("DELETE FROM belljar.hosts WHERE name = $1", self.host)
        self._server.close()

    def _enter(self) -> bool:
        """Take the lock. Whether what is remembered may be out of date."""
        self._connect(until=time.monotonic() + self.patience_s)
        # The server knows the whole of it. Its word is needed, and not our giving up: it ends who is stuck.
        less = f"; SET LOCAL lock_timeout = {1000 * self.patience_s:.0f}" if self.patience_s < self._whole_s else ""
        self._server.execute(f"BEGIN{less}")
        self._entered = True
        try:
            now = self._ask(LOCK)
        except Locked:
            self._end_stuck()
            raise
        before, self._seen, self._now = self._seen, now, now
        self._optimistic = before in (None, now)
        return before != now

    def _connect(self, *, until: float = 0.0) -> None:
        if not self._server.is_open:
            self._server.drop()
            # Another server may have taken over, with other rounds under the same numbers.
            self._seen, self._optimistic = None, False
            self._server.connect(until=until)

    def _lock_first(self) -> None:
        if not self._entered and self._enter():
            raise Stale("another host has written meanwhile; try again")

    def _refuse_stale(self, now: int | None) -> None:
        if now is None or now != self._seen:
            self._optimistic = False
            raise Stale("another host has written meanwhile; try again")

    def _write(self) -> None:
        """Send what is pending. In an optimistic round this is the whole transaction."""
        if not self._pending:
            return
        shape, arrays = _arrays(self._pending)
        self._pending.clear()
        self._send(shape, arrays)

    def _send(self, shape: Shape, arrays: list[list[Any]]) -> None:
        expected = self._now if self._entered else self._seen or 0
        self._now = expected + 1  # also where no answer comes
        try:
            rows = self._server.fetch(_write(shape), expected, self.host, *arrays)
        except Locked:
            self._end_stuck()
            raise
        if rows == [(None,)]:
            self._refuse_stale(None)

    def _end_stuck(self) -> None:
        """End connections that hold the lock in the middle of a statement. Raises `Stale` if there were any."""
        self.rollback()
        self._optimistic = False
        if self._server.fetch(_END_STUCK, self._whole_s / 2):
            raise Stale("another host was stopped in the middle of a statement; try again")

    def _ask(self, statement: str) -> int:
        """What a statement says of `head`."""
        rows = self._server.fetch(statement)
        if len(rows) != 1:
            raise StoreError("its head is gone; set the database aside for inspection")
        found: int = rows[0][0]
        return found

    def _end(self) -> None:
        if self._server.execute("COMMIT") != "COMMIT":
            raise StoreError("the server rolled back instead of committing; look at its log")

    def _was_committed(self, number: int) -> bool:
        """Whether the unanswered write of this round was committed. If not, it never will be."""
        until = time.monotonic() + self.patience_s
        while True:
            self._server.drop()
            try:
                self._server.connect(until=until)
                self._server.execute("BEGIN")
                self._ask("UPDATE belljar.head SET round = round + 1 RETURNING round")
                found = self._server.fetch("SELECT round FROM belljar.hosts WHERE name = $1", self.host)
                self._end()
                if found and not self._server.warned:
                    last: int = found[0][0]
                    return last == number
                why = "it is not replicated" if found else "this host was taken for dead"
                break
            except Lost as error:
                why = str(error)
                if time.monotonic() > until:
                    break
            except StoreError as error:
                why = str(error)
                break
        self._server.drop()
        raise StoreError(f"whether a commit took place cannot be found out: {why}")


def formats(url: str, *, name: str, unavailable: Callable[[str], BelljarError]) -> tuple[int | None, int]:
    """The number of the format of the journal in a database, None where there is none; and the latest. Changes nothing.

    Raises:
        whatever `unavailable` makes, if it is of a newer version or something else, or cannot be read.
    """
    found: list[int | None] = []
    server = Server(url, patience_s=_PATIENCE_S, reading=True)

    def look() -> None:
        try:
            server.connect()
            found.append(version(server))
        finally:
            server.close()

    try:
        _in_a_thread(look)
    except StoreError as error:
        raise unavailable(f"cannot open {name}: {error}") from error
    return found[0], VERSION


def _in_a_thread(work: Callable[[], None]) -> None:
    """Run it in a thread of its own, and wait for it. Raises what it raises."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="belljar journal opening", daemon=True)
    thread.start()
    thread.join()
    for error in errors:
        raise error


def _arrays(changes: Mapping[Key, Any]) -> tuple[Shape, list[list[Any]]]:
    """What is to be written: the tables, and the values of each of their columns."""
    rows: dict[tuple[Table[Any], bool], list[tuple[Any, ...]]] = {}
    for (table, key), row in changes.items():
        rows.setdefault((table, row is None), []).append(key if row is None else table.pack(row))
    # In one order, so that there are few statements to prepare.
    shape = sorted(rows, key=lambda part: (TABLES.index(part[0]), part[1]))
    return tuple(shape), [list(column) for part in shape for column in zip(*rows[part], strict=True)]


_load = functools.cache(load_statement)
_write = functools.cache(write_statement)
