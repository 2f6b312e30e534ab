"""`docs/audit-log.md` lists the events as `belljar.audit.events` has them.

To renew it: `python -m tests.unit.test_audit_page`.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import msgspec

from belljar.audit import events, tampering
from belljar.audit.events import EVENTS, VERSION

PAGE = Path(__file__).parents[2] / "docs" / "audit-log.md"
_PARTS = (events.ContextData, events.AmountsData)
NAMES = inspect.cleandoc(tampering.__doc__ or "").partition("\n\n")[2]
_HEAD = f"""# The audit log

One SQLite file, `audit.db` in the state folder, which the ledger shares; or a database of PostgreSQL. A record is
canonical JSON (RFC 8785, with integers exact to 64 bits) whose SHA-256 the next record names in `prev`.

    {{"data":{{...}},"event":"query.requested","prev":"<64 hex>","run":"r1","seq":7,"time_ns":1795392000,"v":{VERSION}}}

The empty file `audit.db-turn` beside it is a lock, by which the processes that write take turns.

`belljar audit ls` lists the runs, `show` shows what one did, `tail` the last records, `diff` where two runs differ,
`verify` checks the whole file, `coverage` says what a run read. That a run was read is a record as well: `log.read`.
A record is durable before what it announces happens.

The newest records are rows of the table `records`. Of those that are signed, each 256 become one row of `packs`: a line
each, compressed by zlib, which is a quarter of their size, and a sixth of what the rows took. `pack_runs` says
which runs a pack has records of. Nothing else changes: what is hashed, chained and proved are the bytes of a record,
wherever they are. The lines can be read without Belljar, in SQLite's own shell for one:

    SELECT sqlar_uncompress(body, size) FROM packs ORDER BY block; SELECT CAST(body AS TEXT) FROM records ORDER BY seq;

A log that is not signed has no packs. That of an older version comes into packs bit by bit, eight with each checkpoint;
its file then does not shrink, but grows no more for long.

## Checkpoints and receipts

Over the records, byte by byte as they were written, stands a Merkle tree (RFC 9162). At each run's end, and while a
host is up after every 1000 records or 10 seconds, it signs the root with Ed25519; so does a command that has erased
something. That is a checkpoint in the form of C2SP's `tlog-checkpoint`, in the table `checkpoints`. Its first line
names the log, by its first record. The result of a run has a *receipt*: its last record, a checkpoint, and the proof
that this record is under it. As each record vouches for all before it, a log that agrees with a receipt still has all
of that run.

The signing key is in the keys folder (`$BELLJAR_KEYS`, else `belljar/keys` in the XDG config folder), with what was
signed last of each log. Copy the folder when you copy the log; hosts that share a journal need the same keys.

A receipt can be had at any later time (`audit receipt RUN`). So that this does not read the whole log, the table
`subtrees` has the root over each block of 1024 records: a proof needs the records of one block, and of those behind the
last one. Nobody has to believe that table: a proof is checked against the signed root before it is given out, and where
it does not lead there, all records are read.

What was written after the last checkpoint is not signed yet: see [SECURITY.md](../SECURITY.md#what-is-not-promised).

## Witnesses

Whoever can write both the log and the keys folder can sign another history. So checkpoints can be pushed off the
machine, to a *witness* that the host's [configuration](configuration.md#a-witness) names:

* a file: each note is appended to it and flushed. Put it where the host can only append, such as another machine;
* an HTTP endpoint: the note is sent with POST, and any 2xx means that it has it. GET of the same URL gives notes back,
  one after another. No redirect is followed, and no proxy is used;
* syslog: one line `belljar: checkpoint "..."`, the note as a JSON string, to a Unix datagram socket or by UDP, which
  tells nobody whether it arrived.

A checkpoint is pushed when it is durable in the log, beside the runs: none waits for it. One push is under way at a
time, for at most 5 seconds, and of those that come meanwhile only the newest is pushed next, since a checkpoint vouches
for all before it. A push that fails is warned of once; `belljar state check` says why, and the next checkpoint is
pushed in its place. A host that closes waits for at most 5 seconds.

`belljar audit verify --witness FILE|URL` holds the log to every checkpoint that a witness has: of a file, also of one
that a syslog wrote, to those in its last 16 MiB; an endpoint may give that much in 30 seconds. If some of them are of
this log, those of others do not count, so several logs may share a witness; if none is, the log was replaced. A witness
without any checkpoint is an error. It needs to be trusted only to keep what it got: what it has is signed.

A line of a witness that is part of no note says nothing of the log: a full disk cut a note off, or somebody garbled it.
`verify` cannot know which, or what stood there. So it says how many there are, on stderr and with `--json` as
`witness_lines_unreadable`, and exits by what the others say. In the file of a syslog, where others write as well, lines
count that look like a part of a note. What somebody adds behind a note does not hide that one.

**After a restore.** What a witness has cannot be taken back. If an old copy was put back, and signed with
`audit checkpoint --accept-restored`, the witness goes on saying that more was signed than that has, or something else:
`verify --witness` names it, `restored old copy` at first, and `fork` once the log has grown past it. This is right. So
begin a new witness:

1. Set the old notes aside, before the log is accepted: move the file (`mv notes notes.before`), or let the endpoint
   give them at another URL. They prove what the log was before.
2. Let `audit.witness` name the new place, or leave it where a moved file was: the next checkpoint makes it anew.
3. `belljar audit checkpoint --accept-restored` pushes its checkpoint there, and from then on `verify --witness` with
   the new one holds. For the records before `log.accepted` the old notes count, as far as the copy reached.

## What verification names

{NAMES}

## Versions

"""


def page() -> str:
    """The whole page, from the docstrings and the structs."""
    about, _, versions = inspect.cleandoc(events.__doc__ or "").partition("\n\n")[2].partition("\n\n    v 1")
    history, _, units = ("    v 1" + versions).partition("\n\n")
    parts = [_HEAD + f"{about}\n\n{history}\n\n{units}\n\n## Events\n"]
    parts += [_section(event.name, event) for event in EVENTS.values()]
    parts += ["\n## Values inside events\n", *(_section(part.__name__, part) for part in _PARTS)]
    return "".join(parts)


def _section(title: str, struct: type[msgspec.Struct]) -> str:
    rows = [
        f"| `{field.name}` | {_kind(str(inspect.get_annotations(struct, eval_str=False).get(field.name, '')))} "
        f"| {'always' if field.required else 'unless it is the default'} |\n"
        for field in msgspec.structs.fields(struct)
    ]
    head = f"\n### `{title}`\n\n{inspect.cleandoc(struct.__doc__ or '')}\n\n"
    return head + "| field | type | present |\n|---|---|---|\n" + "".join(rows)


def _kind(annotation: str) -> str:
    """The annotation as it is written, without what only a type checker reads."""
    plain = re.sub(r"Annotated\[str, Meta\(.*?\)\]", "Text", annotation)
    return f"`{plain}`".replace(" | None`", "`").replace("|", "or")


def test_the_page_lists_the_events_as_they_are() -> None:
    assert PAGE.read_text("utf-8") == page()


def test_the_page_names_every_event_and_every_field() -> None:
    text = page()
    for name, event in EVENTS.items():
        section = text.partition(f"### `{name}`\n")[2].partition("\n### ")[0]
        assert all(f"| `{field}` |" in section for field in event.__struct_fields__), name


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
