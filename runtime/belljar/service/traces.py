"""Spans of runs, sent to a collector of OpenTelemetry's as each of them ends: run -> turn -> cell -> query.

    the log's writer ── a run's beginning ──▶ the runs that are followed ─┐
                     ── a run's end ──▶ a short queue ────────────────────┴▶ a thread: reads the log, sends spans

Theory of operation. What is sent is made from the log, which is what is known to have happened. Every `LOOK_S` seconds
the thread reads what is new in it, once for all runs that are followed, and sends the spans that have ended since
(`LiveSpans`). So a long run can be watched, and of one whose service died there is what it did. When a run ends, what
is left of it is sent at once. A span that the collector did not take is sent again; as its ids follow from the log, one
that comes twice is the same span, and an export that is made later the same trace.

Of each run the tree is kept that its spans are made of. So no more than `FOLLOWED_MAX` runs are followed, with no more
than `RECORDS_MAX` records between them; the longest is then let go. A run that is not followed is read when it ends,
and sent as a whole.

A collector that is slow, dead or gone costs the service nothing. The queue is bounded and nobody waits for it: what
does not fit is given up, and so is a run whose last spans the collector did not take. Both are counted (`dropped`), and
said once for each trouble. The thread holds up neither the loop nor the end of the process.

What was said is in no span, unless the operator asks for it (`contents`). That somebody reads a run stands in the log
before it is read, as for everybody: in a `log.read` by `telemetry`, however often there is something new in it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from itertools import islice
from typing import Final

from belljar.audit import head, page_after, records_below
from belljar.audit.content import Contents, open_contents
from belljar.audit.events import Event, LogRead, RunAbandoned, RunFinished, RunStarted
from belljar.audit.export.live import LiveSpans
from belljar.audit.export.otel import BATCH_SPANS_MAX, requests, send
from belljar.errors import BelljarError, HostFault
from belljar.host import Host
from belljar.identity import TraceParent
from belljar.keys import Keys

__all__ = ["FOLLOWED_MAX", "LOOK_S", "RECORDS_MAX", "WAITING_MAX", "Traces"]

# Runs whose last spans wait to be sent.
WAITING_MAX: Final = 256
# Runs under way whose spans are sent as they end, and the records of all of these together: about a kilobyte each.
FOLLOWED_MAX: Final = 512
RECORDS_MAX: Final = 40_000
LOOK_S: Final = 2.0
_BOUNDS: Final = (RunStarted, RunFinished, RunAbandoned)
# Records that are read at a time.
_PAGE: Final = 2_000
# A run is told of when its end is made ready for the disk: it is there a moment later, or never.
_ATTEMPTS: Final = 8
_FIRST_PAUSE_S: Final = 0.02
_LOG_S: Final = 10.0
_CLOSE_S: Final = 2.0
_log = logging.getLogger("belljar.service")


class Traces:
    """Sends the spans of a host's runs. Open it in the host's loop, and close it before the host.

    Args:
        endpoint: the collector's URL.
        keys: opens what was said, which is then in the spans; None leaves it out.
        caller_of: says what a run is below, in whose trace it is then; None where it is in one of its own.
    """

    def __init__(
        self,
        host: Host,
        endpoint: str,
        *,
        keys: Keys | None = None,
        caller_of: Callable[[str], TraceParent | None] = lambda _: None,
    ) -> None:
        self._host = host
        self._endpoint = endpoint
        self._keys = keys
        self._caller_of = caller_of
        self._version = metadata.version("belljar")
        self._waiting: queue.Queue[str | None] = queue.Queue(WAITING_MAX)
        self._refused: set[str] = set()
        # Runs that began here and whose last spans are not sent yet. The writer's thread adds to them, both take away.
        self._followed: set[str] = set()
        # Those of them that were under way when the thread looked; each has what the log has up to the record `_seq`.
        self._trees: dict[str, LiveSpans] = {}
        self._seq = 0
        self._loop = asyncio.get_running_loop()
        self._closed = threading.Event()
        self._over = False
        self._trouble = ""
        self._counting = threading.Lock()
        self.dropped = self.sent = 0
        self._thread = threading.Thread(target=self._work, name="belljar traces", daemon=True)
        self._thread.start()
        host.heard_by(self.observe)

    def counts(self) -> tuple[int, int]:
        """How many runs' spans were given up, and how many sent: for the metrics."""
        return self.dropped, self.sent

    def observe(self, run: str, event: Event) -> None:
        """Hear a record, in the thread that writes it: that a run which is nobody's child began or ended."""
        if "." in run or not isinstance(event, _BOUNDS):
            return
        if isinstance(event, RunStarted):
            if event.refused:  # there was no run
                self._refused.add(run)
            elif len(self._followed) < FOLLOWED_MAX:
                self._followed.add(run)
            return
        if run in self._refused:
            self._refused.discard(run)
            return
        try:
            if not self._closed.is_set():
                self._waiting.put_nowait(run)
        except queue.Full:
            self._followed.discard(run)
            self._give_up("the collector is too slow: runs are left out")

    async def aclose(self) -> None:
        """Send what waits, for at most two seconds; give up the rest."""
        self._closed.set()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        await asyncio.to_thread(self._thread.join, _CLOSE_S)
        self._over = True

    # ------------------------------------------------------------------------------------------------------ the thread

    def _work(self) -> None:
        look_at = time.monotonic() + LOOK_S
        while not (self._closed.is_set() and self._waiting.empty()):
            try:
                run = self._waiting.get(timeout=max(0.0, look_at - time.monotonic()))
            except queue.Empty:
                pass
            else:
                if run is None or self._over:
                    return
                self._end(run)
            if time.monotonic() >= look_at:
                self._try_to_look()
                look_at = time.monotonic() + LOOK_S

    def _end(self, run: str) -> None:
        """Send what is left of a run that has ended."""
        try:
            self._send([self._ended(run)])
        except Exception as error:  # whatever it is, the next run may be sent
            self._give_up(f"{type(error).__name__}: {error}")
        else:
            self.sent += 1
        finally:
            self._let_go(run)

    def _try_to_look(self) -> None:
        try:
            self._look()
        except Exception as error:  # what was not sent now is sent the next time, or when its run ends
            self._say(f"{type(error).__name__}: {error}")

    def _look(self) -> None:
        """Send what has ended in the runs under way."""
        followed = tuple(self._followed)
        for run in self._trees.keys() - set(followed):  # they were given up
            del self._trees[run]
        empty = [run for run, tree in self._trees.items() if not tree.records]
        if new := [run for run in followed if run not in self._trees]:
            self._log_reading(new)
            self._adopt(new)
        if self._trees:
            self._advance()
        for run in empty:
            if run in self._trees and not self._trees[run].records:  # its beginning was not written after all
                self._let_go(run)
        self._send(self._trees.values())

    def _adopt(self, new: Iterable[str]) -> None:
        """Read these runs as far as the others are read; from there on they are read together."""
        if not self._trees:
            self._seq = head(self._host.state.journal)
        for run in new:
            try:
                self._trees[run] = self._read(run, self._seq)
                self._keep_few()
            except BelljarError as error:
                self._let_go(run)
                self._say(f"{type(error).__name__}: {error}")

    def _read(self, run: str, until: int | None = None) -> LiveSpans:
        """A run as the log has it, up to this record. Raises as `records_below`."""
        tree = LiveSpans(self._caller_of(run))
        for record in records_below(self._host.state.journal, run):
            if until is None or record.seq <= until:
                tree.feed(record)
        return tree

    def _advance(self) -> None:
        """Read what was logged since, for all runs that are followed.

        Where that fails, it may be for a record of one run. So all of them are read anew, each by itself.
        """
        log, at = self._host.state.journal, self._seq
        try:
            last = head(log)
            more = last > at
            while more:
                found, after = page_after(log, at, _PAGE, wanted=lambda run: run.partition(".")[0] in self._trees)
                for record in found:
                    self._trees[record.run.partition(".")[0]].feed(record)
                    last = max(last, record.seq)
                at, more = after or last, after is not None
                self._keep_few()
        except BelljarError as error:
            self._trees.clear()
            self._say(f"{type(error).__name__}: {error}")
        self._seq = at

    def _keep_few(self) -> None:
        """Let the longest runs go until few enough records are kept."""
        left = sum(tree.records for tree in self._trees.values())
        while left > RECORDS_MAX:
            run = max(self._trees, key=lambda run: self._trees[run].records)
            left -= self._trees[run].records
            self._let_go(run)

    def _let_go(self, run: str) -> None:
        self._trees.pop(run, None)
        self._followed.discard(run)

    def _ended(self, run: str) -> LiveSpans:
        """
        Raises:
            HostFault: the log does not get its end: its transaction failed.
        """
        if run not in self._trees:
            self._log_reading([run])
        pause_s = _FIRST_PAUSE_S
        for _ in range(_ATTEMPTS):
            if run in self._trees:
                self._advance()
            tree = self._trees.get(run) or self._read(run)
            if tree.ended:
                return tree
            time.sleep(pause_s)
            pause_s *= 2
        raise HostFault(f"run {run} has no end in the log")

    def _send(self, trees: Iterable[LiveSpans]) -> None:
        """Send what is due of these. What the collector took is not due any more, also where it took only a part.

        Raises as `send`.
        """
        if not (new := [tree for tree in trees if tree.is_new]):
            return
        with self._contents() as contents:
            due = ((tree, span) for tree in new for span in tree.due(contents))
            while batch := list(islice(due, BATCH_SPANS_MAX)):
                send(self._endpoint, requests([span for _, span in batch], version=self._version))
                self._trouble = ""
                for tree, span in batch:
                    tree.taken(span)

    @contextlib.contextmanager
    def _contents(self) -> Iterator[Contents | None]:
        if self._keys is None:
            yield None
        else:
            with open_contents(self._host.state.journal, self._keys) as contents:
                yield contents

    def _log_reading(self, runs: list[str]) -> None:
        """
        Raises:
            AuditUnavailable: it was not written. RuntimeError: the loop is closed.
        """
        logged: concurrent.futures.Future[None] = concurrent.futures.Future()

        def ended(task: asyncio.Task[int]) -> None:
            if task.cancelled():
                logged.cancel()
            elif (error := task.exception()) is not None:
                logged.set_exception(error)
            else:
                logged.set_result(None)

        def begin() -> None:
            self._logging = self._loop.create_task(self._host.log(LogRead(by="telemetry", command="otlp", of=runs)))
            self._logging.add_done_callback(ended)

        self._loop.call_soon_threadsafe(begin)
        logged.result(_LOG_S)

    # ------------------------------------------------------------------------------------------------------- troubles

    def _give_up(self, why: str) -> None:
        with self._counting:  # two threads do
            self.dropped += 1
        self._say(why)

    def _say(self, why: str) -> None:
        if why != self._trouble and not self._over:
            self._trouble = why
            _log.warning("belljar: spans are not sent: %s", why)
