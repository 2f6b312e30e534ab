"""What a PostgreSQL database of a journal must be, and the statements that read and write it.

Everything is in one schema, `belljar`: the tables of `tables`, and two more::

    head    one row: the format, and `round`, which every transaction that writes raises by one
    hosts   one row for each open store: the last round that it wrote, and when it was last seen

Transactions take turns at the row of `head`: whoever has locked it has the journal, and `round` says whether anybody
has written since. A write is one statement, however many tables it changes. It raises `round` only from the number that
its writer knows; if `round` is another by then, it writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from belljar.journal.draft import StoreError
from belljar.journal.pgserver import Server
from belljar.journal.tables import (
    API_KEYS,
    APPEND_ONLY,
    BOOKS,
    CHECKPOINTS,
    CONTENT_KEYS,
    CONTENTS,
    DELIVERIES,
    HOOKS,
    LIMITED,
    LIMITS,
    ORDERS,
    PACK_RECORDS,
    PACK_RUNS,
    PACKS,
    RECORDS,
    SUBTREES,
    TABLES,
    Book,
    Table,
    columns,
)

__all__ = [
    "LOCK",
    "NOW",
    "TIME",
    "VERSION",
    "Shape",
    "foreign",
    "is_there",
    "load_statement",
    "prepare",
    "version",
    "write_statement",
    "wrong_version",
]

VERSION: Final = 5

LOCK: Final = "SELECT round FROM belljar.head FOR UPDATE"
# The server's clock, in seconds since the epoch; it goes on inside a transaction.
TIME: Final = "extract(epoch FROM clock_timestamp())::float8"
NOW: Final = f"SELECT {TIME}"

_TEXT: Final = {"run", "account", "period", "key", "tenant", "owner", "id", "made_at", "short", "state", "gone"} | {
    *("label", "role", "asked_by", "idem", "again", "url", "told", "hook", "subject")
}
_BYTES: Final = {
    "body",
    "hash",
    "run_limits",
    "tenant_limits",
    "wrapped",
    "note",
    "digest",
    "host_key",
    "secret",
    "root",
}
_SUMS: Final = columns("used_{}") + columns("held_{}")


def _sums(book: Book) -> tuple[str, ...]:
    return columns("used_{}", book.dimensions) + columns("held_{}", book.dimensions)


_TIMES: Final = {"since", "until", "gone_at", "used_at", "ended_at", "next_at", "done_at"}
_NUMBERS: Final = {"seq", "is_open", "part", "size", "block", "low", "high", "many", "attempts", "status"} | {
    *(*_TIMES, *LIMITED, *columns("actual_{}"), *_SUMS)
}
_MAY_BE_NULL: Final[dict[Table[Any], set[str]]] = {
    LIMITS: set(LIMITED),
    CONTENT_KEYS: {"wrapped", "gone"},
    **{book.reservations: set(columns("actual_{}", book.dimensions)) for book in BOOKS},
}
# Beside what the columns' types say. Against our own mistakes, as the triggers are.
_CHECKS: Final[dict[Table[Any], str]] = {
    RECORDS: "seq >= 1 AND length(hash) = 32",
    CHECKPOINTS: "size >= 1",
    SUBTREES: "block >= 0",
    PACKS: "block >= 0",
    **{book.reservations: "state IN ('held', 'dispatched', 'settled', 'released')" for book in BOOKS},
    **{book.balances: " AND ".join(f"{side} >= 0" for side in _sums(book)) for book in BOOKS},
}
_BALANCES: Final = [book.balances for book in BOOKS]
# Rows that are changed again and again find room for their next version beside them.
_ROOM: Final = " WITH (fillfactor = 50)"

_REFUSE: Final = "BEGIN RAISE EXCEPTION '%', $1 USING ERRCODE = 'BJ001'; END"
_APPEND_ONLY: Final = "BEGIN RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'BJ001'; END"
# Only what is in a pack is deleted. Asked after the whole statement, which may put the pack there.
_PACKED_ONLY: Final = f"""BEGIN
    IF EXISTS (SELECT FROM gone
               WHERE seq > (SELECT coalesce(max(block) + 1, 0) * {PACK_RECORDS} FROM belljar.packs)) THEN
        RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'BJ001';
    END IF;
    RETURN NULL;
END"""  # noqa: S608 (constants)
_TRIGGERS: Final = (
    "CREATE TRIGGER records_are_not_changed BEFORE UPDATE OR TRUNCATE ON belljar.records"
    " FOR EACH STATEMENT EXECUTE FUNCTION belljar.append_only()",
    f"CREATE FUNCTION belljar.packed_only() RETURNS trigger LANGUAGE plpgsql AS $${_PACKED_ONLY}$$",
    "CREATE TRIGGER records_are_not_deleted AFTER DELETE ON belljar.records REFERENCING OLD TABLE AS gone"
    " FOR EACH STATEMENT EXECUTE FUNCTION belljar.packed_only()",
    "CREATE TRIGGER packs_are_not_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON belljar.packs"
    " FOR EACH STATEMENT EXECUTE FUNCTION belljar.append_only()",
)
_INDEXES: Final = {
    "records_of_run": "records (run, seq)",
    "packs_of_run": "pack_runs (run, block)",
    "open_runs": "runs (owner) WHERE is_open = 1",
    "open_reservations": "reservations (run) WHERE state IN ('held', 'dispatched')",
    "kept_contents": "content_keys (until) WHERE until > 0",
    "orders_of_key": "orders (tenant, idem) WHERE idem <> ''",
    "open_orders": "orders (owner) WHERE ended_at = 0",
    "due_deliveries": "deliveries (next_at) WHERE done_at = 0",
    "open_box_reservations": "box_reservations (run) WHERE state IN ('held', 'dispatched')",
}
_OF_VERSION_3: Final[tuple[Table[Any], ...]] = (API_KEYS, ORDERS, HOOKS, DELIVERIES, SUBTREES)
_OF_SERVICE: Final = ("orders_of_key", "open_orders", "due_deliveries")

# Openers take turns.
_OPENING: Final = f"SELECT pg_advisory_xact_lock({0x424A4155})"  # "BJAU"
_STATE: Final = """SELECT to_regclass('belljar.head') IS NOT NULL,
    EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('belljar')), current_setting('server_encoding')"""
# Those that keep every character; in another one, a text that it does not know would cost all that is written with it.
_ENCODINGS: Final = ("UTF8", "SQL_ASCII")


def _kind(column: str) -> str:
    for kind, names in (("text", _TEXT), ("bytea", _BYTES), ("bigint", _NUMBERS)):
        if column in names:
            return kind
    raise LookupError(f"nothing says what the column {column} holds")


def _column(table: Table[Any], column: str) -> tuple[str, bool]:
    """Its type, and whether it always has a value."""
    return _kind(column), column not in _MAY_BE_NULL.get(table, ())


def _create_table(table: Table[Any]) -> str:
    lines = []
    for column in table.columns:
        kind, always = _column(table, column)
        # Names are compared as SQLite does, whatever language the database speaks.
        collation = ' COLLATE "C"' if kind == "text" else ""
        lines.append(f"{column} {kind}{collation}{' NOT NULL' * always}")
    lines.append(f"PRIMARY KEY ({', '.join(table.columns[: table.keys])})")
    if (check := _CHECKS.get(table)) is not None:
        lines.append(f"CONSTRAINT {table.name}_check CHECK ({check})")
    return f"CREATE TABLE belljar.{table.name} ({', '.join(lines)}){_ROOM * (table in _BALANCES)}"


_STATEMENTS: Final = (
    "CREATE SCHEMA IF NOT EXISTS belljar",
    "CREATE TABLE belljar.head (one boolean PRIMARY KEY CONSTRAINT head_check CHECK (one), version bigint NOT NULL,"
    f" round bigint NOT NULL){_ROOM}",
    'CREATE TABLE belljar.hosts (name text COLLATE "C" PRIMARY KEY, round bigint NOT NULL,'
    f" seen timestamptz NOT NULL){_ROOM}",
    *map(_create_table, TABLES),
    *(f"CREATE INDEX {name} ON belljar.{what}" for name, what in _INDEXES.items()),
    f"CREATE FUNCTION belljar.refuse(text) RETURNS bigint LANGUAGE plpgsql AS $${_REFUSE}$$",
    f"CREATE FUNCTION belljar.append_only() RETURNS trigger LANGUAGE plpgsql AS $${_APPEND_ONLY}$$",
    *_TRIGGERS,
    f"INSERT INTO belljar.head VALUES (true, {VERSION}, 0)",  # noqa: S608
)
# What makes a schema of each older version one of the next.
_MIGRATIONS: Final = {
    1: (
        "ALTER TABLE belljar.limits ADD COLUMN depth bigint",
        _create_table(CONTENT_KEYS),
        _create_table(CONTENTS),
        _create_table(CHECKPOINTS),
        f"CREATE INDEX kept_contents ON belljar.{_INDEXES['kept_contents']}",
    ),
    2: (
        *(_create_table(table) for table in _OF_VERSION_3),
        *(f"CREATE INDEX {name} ON belljar.{_INDEXES[name]}" for name in _OF_SERVICE),
    ),
    3: (),  # contents may be compressed by Zstandard, which an older Belljar would take for damage
    4: (
        _create_table(PACKS),
        _create_table(PACK_RUNS),
        f"CREATE INDEX packs_of_run ON belljar.{_INDEXES['packs_of_run']}",
        "DROP TRIGGER records_are_not_changed ON belljar.records",
        *_TRIGGERS,
    ),
}

# -- opening -----------------------------------------------------------------------------------------------------------


def prepare(server: Server, host: str) -> None:
    """Make the database one of ours if it has nothing of the kind, migrate an older one, and enter the host in it.

    Raises:
        StoreError: it is something else, or of a newer version.
    """
    server.execute("BEGIN")
    server.fetch(_OPENING)  # a statement of its own: what the next one sees is from after it
    ((is_ours, is_used, encoding),) = server.fetch(_STATE)
    if not is_ours:
        if is_used:
            raise StoreError("its schema belljar is something else; choose another database")
        if encoding not in _ENCODINGS:
            raise StoreError(f"its encoding is {encoding}; create one with ENCODING 'UTF8' TEMPLATE template0")
        for statement in _STATEMENTS:
            server.execute(statement)
    _migrate(server)
    if (odd := wrong_version(server)) is not None:
        raise StoreError(odd)
    if (odd := foreign(server)) is not None:
        raise StoreError(f"{odd}; set the database aside for inspection")
    server.fetch("INSERT INTO belljar.hosts VALUES ($1, 0, now())", host)
    server.execute("COMMIT")


def _migrate(server: Server) -> None:
    """Bring an older schema up to this version. Hosts that have it open know only the older one: they are shut out."""
    while (statements := _MIGRATIONS.get(version := _version(server) or 0)) is not None:
        server.fetch(LOCK)
        for statement in statements:
            server.execute(statement)
        server.execute("DELETE FROM belljar.hosts")
        server.fetch("UPDATE belljar.head SET version = $1, round = round + 1", version + 1)


def is_there(server: Server) -> bool:
    """Whether somebody has opened a journal in the database."""
    return server.fetch(_STATE)[0][0] is True


def wrong_version(server: Server) -> str | None:
    """Why a schema that says what version it is of cannot be used, and what to do; None when it can."""
    version = _version(server)
    if version is None or version == VERSION:
        return None
    who, remedy = (
        ("a newer", "update Belljar") if version > VERSION else ("an older", "migrate it (`belljar state migrate`)")
    )
    return (
        f"its format {version} is not known here, where {VERSION} is the latest; {who} Belljar made it: {remedy}, "
        "or choose another database"
    )


def version(server: Server) -> int | None:
    """Of a journal that is older or of this version; None where there is none.

    Raises:
        StoreError: it is of a newer version, or something else.
    """
    if not is_there(server):
        return None
    if (found := _version(server)) is None:
        raise StoreError("its head is not as we make it; set the database aside for inspection")
    if found > VERSION and (wrong := wrong_version(server)) is not None:
        raise StoreError(wrong)
    return found


def foreign(server: Server) -> str | None:
    """What in the schema is not as we make it, in a few words; None when all is."""
    found = {str(line) for (line,) in server.fetch(_LAYOUT)}
    if (odd := sorted(found ^ _EXPECTED)) or _version(server) is None:
        first = (odd or ["row of head"])[0]
        return f"the {first[:120]!a} in its schema is {'not ours' if first in found else 'gone'}"
    return None


def _version(server: Server) -> int | None:
    """None where `head` is not the table that says it."""
    is_readable = """SELECT count(*) FROM pg_attribute
        WHERE attrelid = to_regclass('belljar.head') AND attname IN ('version', 'round')"""
    if server.fetch(is_readable) != [(2,)]:
        return None
    rows = server.fetch("SELECT version FROM belljar.head")
    return rows[0][0] if len(rows) == 1 and isinstance(rows[0][0], int) else None


# One line for each thing in the schema that can change what a statement does.
_LAYOUT: Final = r"""
WITH ours AS (SELECT oid, relname, relkind, relpersistence, relrowsecurity FROM pg_class
              WHERE relnamespace = to_regnamespace('belljar'))
SELECT concat('relation ', relname, ' ', relkind, CASE WHEN relrowsecurity THEN ' secured' END) FROM ours
UNION ALL
SELECT concat('unlogged ', relname) FROM ours WHERE relpersistence <> 'p'
UNION ALL
SELECT concat('column ', relname, '.', attname, ' ', format_type(atttypid, atttypmod),
              CASE WHEN attnotnull THEN ' always' END, CASE WHEN atthasdef THEN ' default' END)
    FROM ours JOIN pg_attribute ON attrelid = ours.oid WHERE relkind = 'r' AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT concat('constraint ', relname, '.', conname) FROM ours JOIN pg_constraint ON conrelid = ours.oid
    WHERE contype NOT IN ('n', 'p')
UNION ALL
SELECT concat('trigger ', relname, '.', tgname, ' ', tgenabled, tgtype) FROM ours JOIN pg_trigger ON tgrelid = ours.oid
    WHERE NOT tgisinternal
UNION ALL
SELECT concat('rule ', relname, '.', rulename) FROM ours JOIN pg_rewrite ON ev_class = ours.oid
UNION ALL
SELECT concat('policy ', relname, '.', polname) FROM ours JOIN pg_policy ON polrelid = ours.oid
UNION ALL
SELECT concat('child ', relname) FROM ours JOIN pg_inherits ON inhparent = ours.oid
UNION ALL
SELECT concat('function ', proname, ' ', prosrc) FROM pg_proc WHERE pronamespace = to_regnamespace('belljar')
"""


def _expected() -> set[str]:
    lines = {
        "column head.one boolean always",
        "column head.version bigint always",
        "column head.round bigint always",
        "column hosts.name text always",
        "column hosts.round bigint always",
        "column hosts.seen timestamp with time zone always",
        "constraint head.head_check",
        # each statement: of 2 + 8 + 16 + 32 for before, delete, update and truncate
        "trigger records.records_are_not_changed O50",
        "trigger records.records_are_not_deleted O8",
        "trigger packs.packs_are_not_changed O58",
        f"function refuse {_REFUSE}",
        f"function append_only {_APPEND_ONLY}",
        f"function packed_only {_PACKED_ONLY}",
    }
    for table in TABLES:
        for column in table.columns:
            kind, always = _column(table, column)
            lines.add(f"column {table.name}.{column} {kind}{' always' * always}")
    lines |= {f"constraint {table.name}.{table.name}_check" for table in _CHECKS}
    names = ("head", "hosts", *(table.name for table in TABLES))
    lines |= {f"relation {name} r" for name in names} | {f"relation {name}_pkey i" for name in names}
    return lines | {f"relation {name} i" for name in _INDEXES}


_EXPECTED: Final = _expected()

# -- rows --------------------------------------------------------------------------------------------------------------

# What a write changes: tables, each with whether rows are removed from it.
Shape = Sequence[tuple[Table[Any], bool]]


def load_statement(table: Table[Any]) -> str:
    """The rows of some keys: one array for each column of the key."""
    keys = table.columns[: table.keys]
    names = ", ".join(f"{table.name}.{column}" for column in table.columns)
    return (
        f"SELECT {names} FROM belljar.{table.name} JOIN {_rows(keys, 1)} "  # noqa: S608
        f"ON ({_list(f'{table.name}.{{}}', keys)}) = ({_list('given.{}', keys)})"
    )


def write_statement(shape: Shape) -> str:
    """Write rows, if the journal is still as its writer has seen it. Gives the new round, or null: nothing was changed.

    `$1` is the round that was seen and `$2` the host; then, for each of the shape, one array for each column: all of
    the table, or those of its key where rows are removed.
    """
    parts = [
        "mine AS (UPDATE belljar.head SET round = round + 1 WHERE round = $1 RETURNING round)",
        "host AS (UPDATE belljar.hosts SET round = mine.round, seen = now() FROM mine WHERE name = $2 RETURNING 1)",
    ]
    taken = ["true"]
    at = 3
    for number, (table, removed) in enumerate(shape):
        # From `mine`, so that nothing is even looked for before the head is ours.
        if removed:
            keys = table.columns[: table.keys]
            statement = (
                f"DELETE FROM belljar.{table.name} USING mine, {_rows(keys, at)} "  # noqa: S608
                f"WHERE ({_list(f'{table.name}.{{}}', keys)}) = ({_list('given.{}', keys)})"
            )
            at += len(keys)
        else:
            statement = _insert(table, at)
            # A trigger can also take a row for nothing.
            taken.append(f"(SELECT count(*) FROM part{number}) = cardinality(${at})")  # noqa: S608
            at += len(table.columns)
        parts.append(f"part{number} AS ({statement} RETURNING 1)")
    return f"""WITH {", ".join(parts)} SELECT CASE
        WHEN NOT EXISTS (SELECT FROM mine) THEN NULL
        WHEN NOT EXISTS (SELECT FROM host) THEN
            belljar.refuse('this host was taken for dead, and its runs were closed; restart')
        WHEN {" AND ".join(taken)} THEN (SELECT round FROM mine)
        ELSE belljar.refuse('it did not take what was written; set the database aside for inspection') END"""  # noqa: S608


def _insert(table: Table[Any], at: int) -> str:
    names = _list("{}", table.columns)
    statement = (
        f"INSERT INTO belljar.{table.name} ({names}) "  # noqa: S608
        f"SELECT {_list('given.{}', table.columns)} FROM mine, {_rows(table.columns, at)}"
    )
    if table not in APPEND_ONLY:
        keys, rest = table.columns[: table.keys], table.columns[table.keys :]
        statement += f" ON CONFLICT ({_list('{}', keys)}) DO UPDATE SET {_list('{0} = excluded.{0}', rest)}"
    return statement


def _rows(names: Sequence[str], at: int) -> str:
    """Arrays from the parameter `at` on, as rows."""
    arrays = ", ".join(f"${number}::{_kind(name)}[]" for number, name in enumerate(names, at))
    return f"unnest({arrays}) AS given({_list('{}', names)})"


def _list(template: str, names: Sequence[str]) -> str:
    return ", ".join(template.format(name) for name in names)
