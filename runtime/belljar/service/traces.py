"""Spans of runs, sent to a collector of OpenTelemetry's as they end: run -> cell -> query, and child runs below.

    the log's writer ── a run's end ──▶ a short queue ──▶ a thread: reads the run from the log, sends its spans

A collector that is slow, dead or gone costs the service nothing. The queue is bounded and nobody waits for it: what
does not fit is given up, and so is a run whose spans the collector did not take. Both are counted (`dropped`), and said
once for each trouble. The thread holds up neither the loop nor the end of the process.

What was said is in no span, unless the operator asks for it (`contents`). That somebody reads a run stands in the log
before it is read, as for everybody: a `log.read` by `telemetry`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from typing import Final

from belljar.audit import records_below
from belljar.audit.content import Contents, open_contents
from belljar.audit.events import Event, LogRead, RunAbandoned, RunFinished, RunStarted
from belljar.audit.export.otel import otel, send
from belljar.audit.trajectory import Run, trajectory
from belljar.errors import HostFault
from belljar.host import Host
from belljar.keys import Keys

__all__ = ["WAITING_MAX", "Traces"]

# Runs whose spans wait to be sent.
WAITING_MAX: Final = 256
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
    """

    def __init__(self, host: Host, endpoint: str, *, keys: Keys | None = None) -> None:
        self._host = host
        self._endpoint = endpoint
        self._keys = keys
        self._waiting: queue.Queue[str | None] = queue.Queue(WAITING_MAX)
        self._refused: set[str] = set()
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
        """Hear a record, in the thread that writes it. The end of a run that is nobody's child is what matters."""
        if "." in run or not isinstance(event, RunStarted | RunFinished | RunAbandoned):
            return
        if isinstance(event, RunStarted):
            if event.refused:  # there was no run
                self._refused.add(run)
            return
        if run in self._refused:
            self._refused.discard(run)
            return
        try:
            if not self._closed.is_set():
                self._waiting.put_nowait(run)
        except queue.Full:
            self._give_up("the collector is too slow: runs are left out")

    async def aclose(self) -> None:
        """Send what waits, for at most two seconds; give up the rest."""
        self._closed.set()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        await asyncio.to_thread(self._thread.join, _CLOSE_S)
        self._over = True

    def _work(self) -> None:
        while not (self._closed.is_set() and self._waiting.empty()):
            run = self._waiting.get()
            if run is None or self._over:
                return
            try:
                self._send(run)
            except Exception as error:  # whatever it is, the next run may be sent
                self._give_up(f"{type(error).__name__}: {error}")
            else:
                self.sent += 1
                self._trouble = ""

    def _send(self, run: str) -> None:
        self._log_reading(run)
        found = self._ended(run)
        with self._contents() as contents:
            send(self._endpoint, otel(found, contents, version=metadata.version("belljar")))

    def _log_reading(self, run: str) -> None:
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
            self._logging = self._loop.create_task(self._host.log(LogRead(by="telemetry", command="otlp", of=[run])))
            self._logging.add_done_callback(ended)

        self._loop.call_soon_threadsafe(begin)
        logged.result(_LOG_S)

    @contextlib.contextmanager
    def _contents(self) -> Iterator[Contents | None]:
        if self._keys is None:
            yield None
        else:
            with open_contents(self._host.state.journal, self._keys) as contents:
                yield contents

    def _ended(self, run: str) -> Run:
        """
        Raises:
            HostFault: the log does not get its end: its transaction failed.
        """
        pause_s = _FIRST_PAUSE_S
        for _ in range(_ATTEMPTS):
            found = trajectory(records_below(self._host.state.journal, run))
            if found is not None and found.status is not None:
                return found
            time.sleep(pause_s)
            pause_s *= 2
        raise HostFault(f"run {run} has no end in the log")

    def _give_up(self, why: str) -> None:
        with self._counting:  # two threads do
            self.dropped += 1
        if why != self._trouble and not self._over:
            self._trouble = why
            _log.warning("belljar: spans are not sent: %s", why)
