"""The pages' reader over a host: its log, ledger and contexts, each bounded, and read beside the event loop.

A list of runs looks at the first and the last record of each. What all runs below one cost and read takes all their
records, so it is found out for so many records in a list, and kept for those that have ended, which cannot change.

A run is shown in parts of `PART_RECORDS` records. Of the others only what makes the tree is kept, and they are counted;
so a page takes memory for one part and for the cells, and time for all the records, up to `RECORDS_MAX`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import platform
import sqlite3
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec

from belljar.audit import Report, RunSummary, head, records, records_below
from belljar.audit.checkpoint import Note
from belljar.audit.choosing import UNFINISHED
from belljar.audit.content import open_contents
from belljar.audit.events import HOST_RUNS, QueryCompleted, QueryDenied, QueryFailed, RunStarted
from belljar.audit.export.view import Badge, CellView, Fact, Page, RunView, Tone, TreeView
from belljar.audit.export.viewing import page_of, tone_of
from belljar.audit.export.words import moment, money, took
from belljar.audit.kept import Kept
from belljar.audit.paging import Pages, open_pages
from belljar.audit.read import marks_below, parse, runs_before
from belljar.audit.reading import log_read
from belljar.audit.source import Log, open_source, reading
from belljar.audit.trajectory import Run, Trajectory
from belljar.context import ContextStore, ContextStores, Document
from belljar.doctor import BackendReport, examine
from belljar.errors import BelljarError, InvalidInput, VerificationFailed
from belljar.heavy import give_way
from belljar.host import Host
from belljar.identity import RunId, Tenant, is_within
from belljar.keys import Keys
from belljar.ledger import Quota, Used
from belljar.policy import load
from belljar.service.pages.seams import (
    ORDER_STATES,
    Checked,
    CheckpointRow,
    Compared,
    ContextPage,
    ContextRow,
    Contexts,
    GoneContext,
    Health,
    LayerRow,
    Origin,
    Part,
    Proof,
    RecordRow,
    RecordsPage,
    RunFilter,
    RunPage,
    RunRow,
    RunsPage,
    Seal,
    Section,
    Visitor,
    Waiting,
)
from belljar.spans import share
from belljar.tasks import stopped

__all__ = ["NOT_THERE", "PART_RECORDS", "USES_RUNS_MAX", "HostReader", "Queue"]

_Told = TypeVar("_Told", Page, RunView, CellView, TreeView)
NOT_THERE: Final = "pages.not_there"
PART_RECORDS: Final = 20_000
# Reading so many takes some ten seconds; who wants all of a longer run exports it.
RECORDS_MAX: Final = 1_000_000
# For all the runs of one list together, about a quarter of a second.
_LIST_RECORDS_MAX: Final = 20_000
_LOOKS_MAX: Final = 1000
_DIGESTS_MAX: Final = 4096
# Of all tenants, for how often contexts were used: a tenth of a second at first, less later.
USES_RUNS_MAX: Final = 1000
# Of the log, for one page of records of a tenant that has few.
_SCANNED_MAX: Final = 100_000
_DATA_CHARS_MAX: Final = 4000
_PROBLEMS_MAX: Final = 20
# A visitor who goes on looking at a run reads it once.
_READING_S: Final = 600.0
_READINGS_MAX: Final = 10_000
# Pages of runs that are made at the same time.
_AT_ONCE: Final = 2
_GIVE_WAY: Final = 200
_CHECKPOINTS: Final = "SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT ?"
_SIGNED: Final = "SELECT coalesce(max(size), 0) FROM checkpoints"
_OF_TENANT: Final = "run IN (SELECT run FROM runs WHERE tenant = ? OR (tenant > ? AND tenant < ?))"


class _Digest(msgspec.Struct, frozen=True):
    """What a run and all below it came to."""

    ended_ns: int | None
    last_seq: int
    cost_nanousd: int
    calls: int
    read_share: float | None


class Queue(Protocol):
    """Runs that were ordered, and that the log does not have yet."""

    async def ls(
        self, tenant: Tenant | None, status: str, model: str = "", after: str = ""
    ) -> tuple[list[Waiting], str]:
        """Those of a tenant and below it, or of all, in this state, the latest first; and the cursor of more."""
        ...

    async def find(self, run: str) -> Waiting | None:
        """One that was ordered, whether it is known here or not."""
        ...

    async def get(self, run: str) -> Waiting | None:
        """One that waits or runs here, or ended a while ago."""
        ...

    def takes_cells(self, run: str) -> bool:
        """Whether it is a session that is open here."""
        ...

    def compared(self, run: str) -> Compared | None:
        """What came of a replay that ended here a while ago."""
        ...


class HostReader:
    """Reads for the pages. It belongs to the host's event loop; `aclose` ends what it does beside.

    Args:
        host: an open host.
        version: what the pages say made them.
        more: facts of the service that the host does not know, such as its queue.
        queue: the runs that wait; None where none does.
        environ: where the keys folder is looked up; the process's environment when None.
    """

    def __init__(
        self,
        host: Host,
        *,
        version: str,
        more: Callable[[], list[Section]] = list,
        queue: Queue | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._host = host
        self._version = version
        self._more = more
        self._queue = queue
        self._keys = Keys.at(os.environ if environ is None else environ)
        self._stores = ContextStores(host.state.contexts)
        self._digests: OrderedDict[str, _Digest] = OrderedDict()
        self._readings: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._begun: OrderedDict[str, tuple[str, frozenset[str]]] = OrderedDict()
        self._pages = asyncio.Semaphore(_AT_ONCE)
        self._checked = Checked()
        self._checking: asyncio.Task[None] | None = None
        self._walls: list[Section] = []
        self._examined_ns = 0
        self._examining: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        for task in (self._checking, self._examining):
            if task is not None:
                await stopped(task)

    @property
    def _log(self) -> Log:
        return self._host.state.journal

    # ---------------------------------------------------------------------------------------------------------- runs

    async def runs(self, visitor: Visitor, wanted: RunFilter, *, limit: int) -> RunsPage:
        live = {one.run for one in self._host.live()}
        async with self._pages:
            found, older = await asyncio.to_thread(self._runs, visitor, wanted, limit, live)
            signed = await asyncio.to_thread(self._signed)
        rows = [self._row(summary, digest, live, signed) for summary, digest in found]
        return RunsPage(runs=rows, older=older or "")

    def _runs(
        self, visitor: Visitor, wanted: RunFilter, limit: int, live: set[str]
    ) -> tuple[list[tuple[RunSummary, _Digest | None]], str | None]:
        def is_wanted(run: RunSummary) -> bool:
            tenant = run.tenant or ""
            return (
                visitor.sees(tenant)
                and is_within(tenant, wanted.tenant or None)
                and wanted.status in ("", _status(run, live))
                and wanted.model in ("", run.root_model, run.sub_model)
            )

        if not _is_there(self._log):
            return [], None
        found, older = runs_before(self._log, wanted.before or None, is_wanted, limit=limit, looks_max=_LOOKS_MAX)
        left, told = _LIST_RECORDS_MAX, []
        for run in found:
            digest, left = self._digest(run, left)
            told.append((run, digest))
        return told, older

    def _digest(self, run: RunSummary, left: int) -> tuple[_Digest | None, int]:
        """What it came to, if that is known or takes no more than so many records; and how many are left."""
        if (known := self._digests.get(run.run)) is not None:
            self._digests.move_to_end(run.run)
            return known, left
        if run.records > left:
            return None, left
        tree, count = Trajectory(), 0
        for record in islice(records_below(self._log, run.run), left):
            count += 1
            if count % _GIVE_WAY == 0:
                give_way()
            tree.skim(record)
        if count == left or tree.run is None:
            return None, left - count
        digest = _digest_of(tree, tree.run)
        if tree.run.status is not None:
            self._digests[run.run] = digest
            if len(self._digests) > _DIGESTS_MAX:
                self._digests.popitem(last=False)
        return digest, left - count

    def _row(self, run: RunSummary, digest: _Digest | None, live: set[str], signed: int) -> RunRow:
        return RunRow(
            run=run.run,
            tenant=run.tenant or "",
            status=_status(run, live),
            tone=tone_of(run.status),
            model=run.root_model or run.sub_model or "",
            started_ns=run.started_ns,
            ended_ns=None if digest is None else digest.ended_ns,
            is_live=run.run in live,
            seal=self._seal(None if digest is None or run.status is None else digest.last_seq, signed),
            cost_nanousd=run.cost_nanousd if digest is None else digest.cost_nanousd,
            calls=None if digest is None else digest.calls,
            read_share=None if digest is None else digest.read_share,
        )

    def _seal(self, last_seq: int | None, signed: int) -> Seal:
        if last_seq is None:
            return "open"
        if self._checked.is_ok and last_seq <= self._checked.signed:
            return "verified"
        return "signed" if last_seq <= signed else "unsigned"

    def _signed(self) -> int:
        return int(self._ask(_SIGNED)[0][0]) if _is_there(self._log) else 0

    async def waiting(self, visitor: Visitor, wanted: RunFilter) -> tuple[list[Waiting], str]:
        """Orders that the list of runs does not have: those that wait, unless another state is wanted."""
        if self._queue is None or (wanted.tenant and not visitor.sees(wanted.tenant)):
            return [], ""
        tenant = Tenant(wanted.tenant) if wanted.tenant else visitor.tenant
        found, older = await self._queue.ls(tenant, wanted.status or "queued", wanted.model, wanted.before)
        if wanted.status in ORDER_STATES or not wanted.status:
            return found, older
        # Of the others those that never began; the log has the rest.
        return [one for one in found if not await asyncio.to_thread(self._has_begun, one.run)], older

    async def waits(self, visitor: Visitor, run: str) -> Waiting | None:
        """The order of a run of which the log has nothing: it is queued, its box is being built, or it never began."""
        if self._queue is None:
            return None
        run = _run_id(run)
        found = await self._queue.get(run)
        if await asyncio.to_thread(self._has_begun, run):
            return None
        if found is None:
            found = await self._queue.find(run)
        return found if found is not None and visitor.sees(found.tenant) else None

    def _has_begun(self, run: str) -> bool:
        return _is_there(self._log) and next(records(self._log, run), None) is not None

    async def tenant_of(self, visitor: Visitor, run: str) -> Tenant:
        return (await asyncio.to_thread(self._started, visitor, run))[0]

    def _started(self, visitor: Visitor, run: str) -> tuple[Tenant, RunStarted]:
        """Whose run it is, if the visitor sees it."""
        first = next(records(self._log, _run_id(run)), None) if _is_there(self._log) else None
        if first is None or not isinstance(first.typed, RunStarted) or not visitor.sees(first.typed.tenant):
            raise _not_there("run")
        return Tenant(first.typed.tenant), first.typed

    async def run(self, visitor: Visitor, run: str, *, part: int) -> RunPage:
        tenant, started = await asyncio.to_thread(self._started, visitor, run)
        await self._note_reading(visitor, run)
        is_live, takes_cells, compared = self._host.live_run(run) is not None, False, None
        if self._queue is not None:
            ordered = await self._queue.get(run)
            is_live = is_live or (ordered is not None and ordered.is_open)
            takes_cells, compared = self._queue.takes_cells(run), self._queue.compared(run)
        async with self._pages:
            found = await asyncio.to_thread(self._page, str(tenant), run, part, started, is_live)
            if not found.can_again or not visitor.may("run", tenant):
                return msgspec.structs.replace(found, takes_cells=takes_cells, compared=compared)
            gone = await asyncio.to_thread(self._gone, tenant, started)
        return msgspec.structs.replace(found, gone=gone)

    def _gone(self, tenant: Tenant, started: RunStarted) -> list[GoneContext]:
        """What the run had, and its tenant has no longer."""
        store = self._stores.of(tenant)
        return [
            GoneContext(name=one.name, kind=one.kind, chars=one.chars, sha256=one.sha256)
            for one in started.contexts
            if not _has(store, one.sha256)
        ]

    async def _note_reading(self, visitor: Visitor, run: str) -> None:
        """What was said in a run is shown: the log has it first, once for each visitor in a while."""
        now, mark = time.monotonic(), (visitor.name, run)
        if (before := self._readings.get(mark)) is not None and now - before < _READING_S:
            return
        await log_read(self._log, by=visitor.name, command="page", of=[run])
        self._readings[mark] = now
        self._readings.move_to_end(mark)
        if len(self._readings) > _READINGS_MAX:
            self._readings.popitem(last=False)

    def _page(self, tenant: str, run: str, number: int, started: RunStarted, is_live: bool) -> RunPage:
        parts = _parts(marks_below(self._log, run, PART_RECORDS))
        if not 1 <= number <= len(parts):
            raise _not_there("part of the run")
        part = parts[number - 1]
        tree = Trajectory()
        for count, record in enumerate(islice(records_below(self._log, run), RECORDS_MAX)):
            if count % _GIVE_WAY == 0:
                give_way()
            is_outcome = isinstance(record.typed, QueryCompleted | QueryFailed | QueryDenied)
            if part.first <= record.seq <= part.last and not is_outcome:
                tree.feed(record)
            else:  # an outcome belongs to where its query is, or else is counted alone
                tree.skim(record)
        assert tree.run is not None, "it has records"
        is_live = is_live and tree.run.status is None
        whole = len(parts) == 1
        with open_contents(self._log, self._keys) as contents:
            kept = Kept(contents)
            # Of a session, in which several questions came, there is no one that could be asked anew.
            is_asked = tree.run.question is not None and isinstance(tree.run.question.words(kept), str)
            page = page_of(
                tree.run,
                kept,
                self._badge(tree.run),
                exported_ns=time.time_ns(),
                version=self._version,
                window=None if whole else (part.first, part.last),
            )
        origin = _origin(started)
        if started.replays is not None:  # it reads in boxes of its own, of which this log has nothing
            page = msgspec.structs.replace(page, strips=[])
        if is_live:
            page = _running(page)
        return RunPage(
            page=page,
            tenant=tenant,
            part=part,
            parts=[] if whole else parts,
            is_live=is_live,
            is_over=tree.run.status is not None,
            turns=sum(turn.number > 0 for turn in tree.run.turns) if whole and is_asked else 0,
            model=started.root_model or "",
            can_again=tree.run.status is not None and _can_again(run, started),
            origin=origin,
            is_scripted=bool(tree.run.scripted),
        )

    def _badge(self, run: Run) -> Badge:
        last = max(one.last_seq for one in run.below())
        seal = self._seal(last if run.status is not None else None, self._signed())
        when = moment(self._checked.at_ns)
        if self._checked.at_ns and not self._checked.is_ok:
            return Badge(tone="bad", word="The log did not verify", detail=f"{self._checked.problems[0]} ({when})")
        word, detail = _SEALS[seal]
        tone: Tone = "good" if seal == "verified" else "none"
        return Badge(tone=tone, word=word, detail=detail.format(when=when, last=f"{last:,}"))

    async def proof(self, visitor: Visitor, run: str) -> Proof:
        await self.tenant_of(visitor, run)
        receipt = await self._host.checkpoints.receipt_of(run)
        record = await asyncio.to_thread(self._record, receipt.seq)
        assert receipt.leaf is not None, "the log was signed for it"
        assert receipt.checkpoint is not None, "likewise"
        return Proof(
            run=run,
            seq=receipt.seq,
            record=base64.b64encode(record).decode(),
            leaf=receipt.leaf,
            proof=list(receipt.proof),
            checkpoint=receipt.checkpoint,
            key=await self._host.checkpoints.key(),
        )

    def _record(self, seq: int) -> bytes:
        with reading(open_source(self._log)) as source:
            body = next((row[2] for row in source.rows(seq=seq)), None)
        if not isinstance(body, bytes):
            raise VerificationFailed(f"record {seq} is gone from the log: verify it")
        return body

    # ---------------------------------------------------------------------------------------- tenants and contexts

    async def tenants(self, visitor: Visitor) -> list[str]:
        """Those that used anything, have a limit or a context; and the visitor's own."""
        found = set(await self._host.quotas.levels(visitor.tenant)) if _is_there(self._log) else set()
        stored = await asyncio.to_thread(self._stores.tenants)
        found |= {str(tenant) for tenant in stored if visitor.sees(tenant)}
        return sorted({*found, *([str(visitor.tenant)] if visitor.tenant is not None else [])})

    async def quotas(self, visitor: Visitor, tenant: str | None) -> list[Quota]:
        """How all levels that the visitor sees stand, or those of one tenant."""
        if not _is_there(self._log):
            return []
        if tenant is None:  # of ten thousand tenants, one sees itself
            return await self._host.quotas.show(visitor.tenant, below=True)
        return [quota for quota in await self._host.quotas.show(tenant) if visitor.sees(quota.tenant)]

    async def history(self, visitor: Visitor, tenant: str | None) -> list[Used]:
        """By day: of one tenant, or of those that the visitor sees and that are not part of another one of them."""
        if not _is_there(self._log):
            return []
        if tenant is not None:
            return [used for used in await self._host.quotas.history(tenant) if visitor.sees(used.tenant)]
        found = await self._host.quotas.history(visitor.tenant, below=True)
        first = "/" if visitor.tenant is None else f"{visitor.tenant}/"
        return [used for used in found if first not in used.tenant]

    async def contexts(self, visitor: Visitor, tenant: Tenant, *, uses: bool = False) -> Contexts:
        """Those that are registered; with their `uses`, for which the latest runs are looked at."""
        if not visitor.sees(tenant):
            raise _not_there("tenant")

        def look() -> Contexts:
            store = self._stores.of(tenant)
            rows = [self._context(tenant, document, store.names(document.sha256)) for document in store.ls()][::-1]
            if not uses or not rows:
                return Contexts(rows=rows)
            counts, is_whole = self._uses(tenant)
            counted = [msgspec.structs.replace(row, uses=counts[row.sha256]) for row in rows]
            return Contexts(rows=counted, is_whole=is_whole)

        async with self._pages:
            return await asyncio.to_thread(look)

    def _uses(self, tenant: Tenant) -> tuple[Counter[str], bool]:
        """In how many of a tenant's runs each context was, and whether all runs of the log were looked at."""
        counts: Counter[str] = Counter()
        if not _is_there(self._log):
            return counts, True
        run: str | None = None
        with open_pages(self._log) as pages:
            for _ in range(USES_RUNS_MAX):
                if (run := pages.before(run)) is None:
                    return counts, True
                whose, had = self._had(pages, run)
                if whose == tenant:
                    counts.update(had)
        return counts, False

    def _had(self, pages: Pages, run: str) -> tuple[str, frozenset[str]]:
        """Whose a run is, and the contexts that it had; its first record does not change."""
        if (known := self._begun.get(run)) is not None:
            return known
        first = pages.first(run)
        begun = first.typed if first is not None and isinstance(first.typed, RunStarted) else None
        found = ("", frozenset[str]()) if begun is None else (begun.tenant, frozenset(c.sha256 for c in begun.contexts))
        self._begun[run] = found
        if len(self._begun) > 2 * USES_RUNS_MAX:
            self._begun.popitem(last=False)
        return found

    def _context(self, tenant: Tenant, document: Document, names: list[str]) -> ContextRow:
        return ContextRow(
            sha256=document.sha256,
            names=names or [document.name],
            kind=document.kind,
            chars=document.chars,
            bytes=document.bytes,
            lines=document.lines,
            items=document.items,
            added_ns=document.added_ns,
            used_ns=self._stores.of(tenant).used_ns(document.sha256),
        )

    async def context(
        self, visitor: Visitor, tenant: Tenant, sha256: str, *, start: int, line: int, chars: int
    ) -> ContextPage:
        """`chars` characters from `start` on, or from a line on, counted from 1, if it is not 0."""
        if not visitor.sees(tenant):
            raise _not_there("tenant")

        def look() -> ContextPage:
            store = self._stores.of(tenant)
            found = store.find(f"sha256:{sha256}")
            row = self._context(tenant, found, store.names(found.sha256))
            with store.open(found.sha256, now_ns=row.used_ns) as opened:  # to look is no use
                first = start
                if 0 < line <= found.lines:
                    first = opened.char_of(opened.line_start(line - 1))
                first = max(0, min(first, found.chars - 1))
                stop = min(first + chars, found.chars)
                text = str(opened.read(first, stop), "utf-8", "replace")
            return ContextPage(document=row, start=first, stop=stop, text=text)

        return await asyncio.to_thread(look)

    # -------------------------------------------------------------------------------------------------------- health

    async def health(self, visitor: Visitor) -> Health:
        live = [one for one in self._host.live() if visitor.sees(one.tenant)]
        running = [
            Fact(label="runs under way", value=f"{len(live):,}"),
            Fact(label="the oldest", value=took(max((int(one.wall_s * 10**9) for one in live), default=None))),
            Fact(label="spent by them so far", value=money(sum(one.progress.cost_nanousd for one in live))),
        ]
        return Health(
            sections=[
                await asyncio.to_thread(self._journal),
                await self._ledger(),
                Section(title="Runs", facts=running),
                *self._more(),
                Section(title="Boxes", facts=self._boxes()),
                Section(title="Versions", facts=self._versions()),
            ],
            walls=self._walls,
            examined_ns=self._examined_ns,
            is_examining=self._examining is not None and not self._examining.done(),
        )

    def _journal(self) -> Section:
        try:
            number, signed = head(self._log), self._signed()
        except BelljarError as error:
            return Section(title="Log", facts=[], tone="bad", word=f"cannot be read ({type(error).__name__})")
        facts = [
            Fact(label="records", value=f"{number:,}"),
            Fact(label="signed", value=f"{signed:,}"),
            Fact(label="not signed yet", value=f"{number - signed:,}"),
            Fact(label="kept in", value="PostgreSQL" if isinstance(self._log, str) else "SQLite"),
        ]
        if isinstance(self._log, Path):
            facts.append(Fact(label="file", value=f"{self._log.stat().st_size / 2**10:,.0f} KiB"))
        return Section(title="Log", facts=facts, tone="good", word="works")

    async def _ledger(self) -> Section:
        began = time.perf_counter_ns()
        try:
            found = await self._host.quotas.levels()
        except BelljarError as error:
            return Section(title="Ledger", facts=[], tone="bad", word=f"cannot be read ({type(error).__name__})")
        facts = [
            Fact(label="levels", value=f"{len(found):,}"),
            Fact(label="read in", value=took(time.perf_counter_ns() - began)),
        ]
        return Section(title="Ledger", facts=facts, tone="good", word="works")

    def _boxes(self) -> list[Fact]:
        ready = self._host.boxes_ready()
        kept = f"{self._host.pool:,} of each kind" if self._host.pool else "none"
        return [
            Fact(label="backends in use", value=", ".join(ready) or "none yet"),
            Fact(label="in use by runs", value=f"{len(self._host.live()):,}"),
            Fact(label="ready now", value=", ".join(f"{n:,} of {name}" for name, n in ready.items()) or "none"),
            Fact(label="to be kept ready", value=kept),
        ]

    def _versions(self) -> list[Fact]:
        known = {
            "belljar": self._version,
            "Python": platform.python_version(),
            "kernel": platform.release(),
            "SQLite": sqlite3.sqlite_version,
            "Starlette": metadata.version("starlette"),
            "RestrictedPython": metadata.version("RestrictedPython"),
        }
        return [Fact(label=label, value=value) for label, value in known.items()]

    async def examine(self) -> None:
        """Begin to try the walls, unless that is under way."""
        if self._examining is None or self._examining.done():
            self._examining = asyncio.create_task(self._examine())

    async def _examine(self) -> None:
        try:
            report = await examine(await asyncio.to_thread(load, "standard"))
            self._walls = [_wall(backend) for backend in report.backends]
        except BelljarError as error:
            word = f"could not be tried ({type(error).__name__})"
            self._walls = [Section(title="Boxes", facts=[], tone="bad", word=word)]
        self._examined_ns = time.time_ns()

    # --------------------------------------------------------------------------------------------------------- audit

    async def checkpoints(self, visitor: Visitor, *, limit: int) -> list[CheckpointRow]:
        if not _is_there(self._log):
            return []
        found = await asyncio.to_thread(self._ask, _CHECKPOINTS, limit)
        return [_checkpoint(size, note) for size, note in found]

    async def records(self, visitor: Visitor, *, before: int, limit: int) -> RecordsPage:
        if not _is_there(self._log):
            return RecordsPage(records=[], older=0, head=0)
        return await asyncio.to_thread(self._records, visitor, before, limit)

    def _records(self, visitor: Visitor, before: int, limit: int) -> RecordsPage:
        newest = head(self._log)
        first = min(before or newest + 1, newest + 1)
        least = max(1, first - _SCANNED_MAX)
        with reading(open_source(self._log)) as source:
            if visitor.tenant is None:
                found = source.packs.rows(least, first - 1, backwards=True)
            else:
                whose = (visitor.tenant, f"{visitor.tenant}/", f"{visitor.tenant}0")  # behind the slash comes the 0
                found = source.packs.rows(
                    least, first - 1, where=_OF_TENANT, values=list(map(str, whose)), backwards=True
                )
            rows = list(islice(found, limit))
        older = rows[-1][0] if len(rows) == limit else least
        return RecordsPage(
            records=[_record(seq, body) for seq, _, body, _ in rows], older=older if older > 1 else 0, head=newest
        )

    def checked(self) -> Checked:
        is_running = self._checking is not None and not self._checking.done()
        return msgspec.structs.replace(self._checked, is_running=is_running)

    async def verify(self) -> None:
        """Begin to check the whole log, unless that is under way."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check())

    async def _check(self) -> None:
        try:
            report = await self._host.verify()
        except BelljarError as error:
            problem = f"the log cannot be checked ({type(error).__name__})"
            self._checked = Checked(at_ns=time.time_ns(), problems=[problem])
            return
        self._checked = _checked(report, time.time_ns())

    def _ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with reading(open_source(self._log)) as source:
            return source.ask(statement, *values)


_SEALS: Final[Mapping[Seal, tuple[str, str]]] = {
    "verified": ("The log verifies", "The whole log was checked {when}; all records of this run are signed."),
    "signed": ("Signed", "All records of this run are under a signed checkpoint. Check it in this browser, below."),
    "unsigned": ("Not signed yet", "The next checkpoint will have this run, up to record {last}."),
    "open": ("Not over yet", "A run is signed when it has ended; so far it has records up to {last}."),
}


def _status(run: RunSummary, live: set[str]) -> str:
    return run.status or ("running" if run.run in live else UNFINISHED)


def _is_there(log: Log) -> bool:
    return not isinstance(log, Path) or log.is_file()


def _not_there(what: str) -> InvalidInput:
    return InvalidInput(f"there is no such {what}: look in the list", code=NOT_THERE)


def _has(store: ContextStore, sha256: str) -> bool:
    try:
        store.find(f"sha256:{sha256}")
    except InvalidInput:
        return False
    return True


def _running(page: Page) -> Page:
    """Of a run under way here, what the log calls unfinished runs."""
    replace = msgspec.structs.replace

    def told(one: _Told) -> _Told:
        return replace(one, status="running") if one.status == UNFINISHED else one

    runs = [replace(told(run), cells=[told(cell) for cell in run.cells]) for run in page.runs]
    return replace(told(page), tree=[told(one) for one in page.tree], runs=runs)


def _can_again(run: str, started: RunStarted) -> bool:
    """A child is done again with its parent, and a replay by replaying what it replayed."""
    return started.replays is None and not started.refused and "." not in run


def _origin(started: RunStarted) -> Origin | None:
    if started.replays is not None:
        return Origin(run=started.replays)
    return None if started.forks is None else Origin(run=started.forks, from_turn=started.from_turn)


def _run_id(run: str) -> str:
    """The id of a run, if it can be one."""
    try:
        found = RunId(run)
    except InvalidInput:
        raise _not_there("run") from None
    if found in HOST_RUNS:
        raise _not_there("run")
    return str(found)


def _parts(marks: list[int]) -> list[Part]:
    ends = [*(mark - 1 for mark in marks[1:]), 2**63 - 1]
    return [
        Part(number=number + 1, first=first, last=last)
        for number, (first, last) in enumerate(zip(marks, ends, strict=True))
    ]


def _digest_of(tree: Trajectory, run: Run) -> _Digest:
    coverage = tree.coverage()
    return _Digest(
        ended_ns=run.ended_ns,
        last_seq=max(one.last_seq for one in run.below()),
        cost_nanousd=run.total.cost_nanousd,
        calls=run.total.calls,
        read_share=share(coverage.read_chars, coverage.chars) if coverage.documents else None,
    )


def _checkpoint(size: int, note: bytes) -> CheckpointRow:
    try:
        found = Note.read(note.decode())
    except ValueError:
        return CheckpointRow(size=size, root="not a signed checkpoint", origin="", keys=[])
    keys = [name for name, _, _ in found.signatures]
    return CheckpointRow(size=size, root=found.checkpoint.root.hex(), origin=found.checkpoint.origin, keys=keys)


def _record(seq: int, body: object) -> RecordRow:
    try:
        record = parse(seq, body)
    except ValueError as error:
        return RecordRow(seq=seq, time_ns=0, run="", event="damaged", hash="", data=f"it {error}", is_cut=False)
    # Half a surrogate pair, which a log can have, is written out as six characters.
    data = json.dumps(record.data, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    return RecordRow(
        seq=seq,
        time_ns=record.time_ns,
        run=record.run,
        event=record.event,
        hash=record.hash,
        data=data[:_DATA_CHARS_MAX],
        is_cut=len(data) > _DATA_CHARS_MAX,
    )


def _checked(report: Report, at_ns: int) -> Checked:
    return Checked(
        at_ns=at_ns,
        is_ok=report.ok,
        records=report.records,
        signed=report.signed,
        head=report.head,
        problems=report.problems[:_PROBLEMS_MAX],
    )


def _wall(backend: BackendReport) -> Section:
    layers = [
        LayerRow(
            name=one.name,
            holds=one.ok,
            is_required=one.required,
            told=one.note if one.ok else "; ".join(filter(None, (one.exposes, one.remedy))),
        )
        for one in backend.findings
    ]
    facts = [Fact(label="an empty run", value=f"{backend.run_ms:,} ms")] if backend.starts else []
    for label, value in backend.facts.items():
        facts.append(Fact(label=label, value=", ".join(value) if isinstance(value, list) else str(value)))
    word = "starts" if backend.starts else f"does not start: {backend.reason}"
    return Section(
        title=backend.backend, facts=facts, layers=layers, tone="good" if backend.starts else "bad", word=word
    )
