"""What a service counts, in the format that Prometheus scrapes.

Theory of operation. What happens is counted where it is logged: `observe` hears every record of this process, in the
thread that writes them, once, when it is made ready for the disk. So the counters and the log cannot tell different
stories, and nothing else of the service has to count. It is called for every record, so it does no more than a few
additions; it never fails and never waits. What *is*, and does not happen (boxes, queues, quotas, memory), is asked when
somebody scrapes, by a `Sources`, at most every `FRESH_S` seconds.

    the log's writer ── record ──▶ observe    counters, histograms
    a scrape ── at most every FRESH_S ──▶ Sources    gauges

**Labels have few values, whatever anybody sends.** A value is either of a closed set, or one of the first so many that
came; all others are `other`. Models are those that the operator names. Quotas are shown of the first level of tenants
alone, and of at most `TENANTS_MAX` of these; a tenant's name is nowhere else. No label has anything that a program or a
caller chose.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector

from belljar.audit import head
from belljar.audit.events import (
    BoxStarted,
    Event,
    HookDelivered,
    HttpRequest,
    QueryCompleted,
    QueryDenied,
    QueryFailed,
    QueryRequested,
    QueryReused,
    RequestRefused,
    RunAbandoned,
    RunFinished,
    RunStarted,
)
from belljar.audit.signing import signed_size
from belljar.errors import BelljarError
from belljar.host import Host
from belljar.ledger import Place, Quota
from belljar.service.provider_errors import code_of
from belljar.service.underway import UnderWay

__all__ = ["FRESH_S", "TENANTS_MAX", "HostSources", "Metrics", "MetricsPage", "Reading", "Sources"]

FRESH_S: Final = 5.0
TENANTS_MAX: Final = 50
MODELS_MAX: Final = 50
# Of values whose set is closed in practice, but not by a type: codes of refusals, routes, statuses.
_VALUES_MAX: Final = 60
_OTHER: Final = "other"
_START_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_LONG_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
_DIMENSIONS: Final = ("calls", "input_tokens", "output_tokens", "cost_nanousd", "read_bytes", "cpu_ms", "wall_ms")
_USD: Final = 1e9


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How a service stands at one moment. What could not be found out is None or empty.

    Attributes:
        boxes: the boxes of runs under way here, those of child runs included.
        ready: the unused boxes that each backend has ready.
        queued: how many orders wait; `running` are under way.
        unsigned: how many records of the log no checkpoint vouches for yet.
        quotas: how tenants stand.
        traces_dropped, traces_sent: runs whose last spans were given up or sent to a collector, since the start.
    """

    boxes: int = 0
    ready: Mapping[str, int] = {}
    queued: int = 0
    running: int = 0
    unsigned: int | None = None
    quotas: Sequence[Quota] = ()
    traces_dropped: int = 0
    traces_sent: int = 0


class Sources(Protocol):
    """Where a reading comes from."""

    async def read(self) -> Reading: ...


class HostSources:
    """Reads a host.

    Args:
        queue: how many orders wait, and how many are under way, of whoever takes orders.
        traces: how many runs' spans were given up, and how many sent, of whoever sends them.
    """

    def __init__(
        self,
        host: Host,
        *,
        queue: Callable[[], tuple[int, int]] | None = None,
        traces: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self._host = host
        self._queue = queue
        self._traces = traces

    async def read(self) -> Reading:
        """A log or ledger that cannot be read leaves its gauges out: a scrape still has the rest."""
        boxes = len(self._host.live())
        queued, running = (0, boxes) if self._queue is None else self._queue()
        dropped, sent = (0, 0) if self._traces is None else self._traces()
        unsigned: int | None = None
        quotas: Sequence[Quota] = ()
        try:
            unsigned = await asyncio.to_thread(self._unsigned)
            quotas = await self._host.quotas.show(below=True, choose=_first_levels)
        except BelljarError:
            pass
        return Reading(
            boxes=boxes,
            ready=self._host.boxes_ready(),
            queued=queued,
            running=running,
            unsigned=unsigned,
            quotas=quotas,
            traces_dropped=dropped,
            traces_sent=sent,
        )

    def _unsigned(self) -> int:
        log = self._host.state.journal
        return max(0, head(log) - signed_size(log))


class Metrics:
    """The metrics of one process, in a registry of its own.

    Args:
        models: the names that `model` may be; calls of all other models together are `other`.
        clock: seconds, monotonic.
    """

    def __init__(self, models: Iterable[str] = (), *, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry: Final = CollectorRegistry(auto_describe=True)
        self._clock = clock
        self._models = frozenset(sorted(models)[:MODELS_MAX])
        # Of runs, until they have a box, and of calls when they began; of one too many, no latency is told.
        self._began: UnderWay[float] = UnderWay()
        self._asked: UnderWay[tuple[float, str, str]] = UnderWay()
        self._reading = Reading()
        self._hears: dict[type[Event], Callable[[str, Any], None]] = {
            RunStarted: self._run_started,
            BoxStarted: self._box_started,
            RunFinished: self._run_finished,
            RunAbandoned: self._run_abandoned,
            QueryRequested: self._query_requested,
            QueryCompleted: self._query_completed,
            QueryFailed: self._query_failed,
            QueryDenied: self._query_denied,
            QueryReused: self._query_reused,
            RequestRefused: self._request_refused,
            HttpRequest: self._http_request,
            HookDelivered: self._hook_delivered,
        }
        self._make_counters()
        ProcessCollector(registry=self.registry)
        self.registry.register(_Gauges(lambda: self._reading))

    def _make_counters(self) -> None:
        here = self.registry
        self._records = Counter("belljar_log_records", "Records that were written to the log here.", registry=here)
        self._runs = _Bounded(Counter("belljar_runs", "Runs that have ended.", ["status", "kind"], registry=here))
        self._start_s = Histogram(
            "belljar_start_seconds", "From a run's beginning to its box.", buckets=_START_S, registry=here
        )
        self._run_s = Histogram("belljar_run_seconds", "How long runs took.", buckets=_LONG_S, registry=here)
        self._queries = _Bounded(
            Counter(
                "belljar_queries", "Model and tool calls, by how they ended.", ["purpose", "outcome"], registry=here
            )
        )
        self._query_s = Histogram(
            "belljar_query_seconds", "From asking a model to its answer.", ["purpose"], buckets=_LONG_S, registry=here
        )
        self._spend = _Bounded(Counter("belljar_spend_usd", "What model calls cost.", ["model"], registry=here))
        self._tokens = _Bounded(
            Counter("belljar_tokens", "Tokens of model calls.", ["model", "direction"], registry=here)
        )
        self._errors = _Bounded(Counter("belljar_provider_errors", "Model calls that failed.", ["code"], registry=here))
        self._refusals = _Bounded(
            Counter("belljar_refusals", "Requests of programs that were refused.", ["code"], registry=here)
        )
        self._http = _Bounded(
            Counter("belljar_http_requests", "Requests to the service.", ["route", "status"], registry=here)
        )
        self._hooks = _Bounded(
            Counter("belljar_hook_deliveries", "What webhooks were told.", ["outcome"], registry=here)
        )

    # ----------------------------------------------------------------------------------------------------- what happens

    def observe(self, run: str, event: Event) -> None:
        """Count a record. Called by one thread at a time."""
        self._records.inc()
        if (hear := self._hears.get(type(event))) is not None:
            hear(run, event)

    def _run_started(self, run: str, event: RunStarted) -> None:
        if not event.refused:
            self._began.begin(run, self._clock())

    def _box_started(self, run: str, _event: BoxStarted) -> None:
        if (began := self._began.end(run)) is not None:
            self._start_s.observe(self._clock() - began)

    def _run_finished(self, run: str, event: RunFinished) -> None:
        self._began.end(run)
        self._runs.add(event.status, _kind(run))
        if event.wall_ms is not None:
            self._run_s.observe(event.wall_ms / 1000)

    def _run_abandoned(self, run: str, _event: RunAbandoned) -> None:
        self._began.end(run)
        self._runs.add("abandoned", _kind(run))

    def _query_requested(self, _run: str, event: QueryRequested) -> None:
        self._asked.begin(event.action, (self._clock(), event.purpose, self._model(event.model)))

    def _query_completed(self, _run: str, event: QueryCompleted) -> None:
        self._answered("completed", event)

    def _query_failed(self, _run: str, event: QueryFailed) -> None:
        self._answered("failed", event)
        self._errors.add(code_of(event))

    def _answered(self, outcome: str, event: QueryCompleted | QueryFailed) -> None:
        asked = self._asked.end(event.action)
        purpose, model = (_OTHER, _OTHER) if asked is None else asked[1:]
        if asked is not None:
            self._query_s.labels(purpose).observe(self._clock() - asked[0])
        self._queries.add(purpose, outcome)
        self._spend.add(model, more=event.cost_nanousd / _USD)
        self._tokens.add(model, "input", more=event.input_tokens)
        self._tokens.add(model, "output", more=event.output_tokens)

    def _query_denied(self, _run: str, event: QueryDenied) -> None:
        asked = self._asked.end(event.action)
        self._queries.add(_OTHER if asked is None else asked[1], "denied")
        self._refusals.add(event.code)

    def _query_reused(self, _run: str, _event: QueryReused) -> None:
        self._queries.add("sub", "reused")

    def _request_refused(self, _run: str, event: RequestRefused) -> None:
        self._refusals.add(event.code, more=event.count or 1)

    def _http_request(self, _run: str, event: HttpRequest) -> None:
        self._http.add(event.route, f"{event.status // 100 % 10}xx")
        if event.unlogged is not None:
            self._http.add(_OTHER, "4xx", more=event.unlogged)

    def _hook_delivered(self, _run: str, event: HookDelivered) -> None:
        self._hooks.add("arrived" if event.arrived else "given_up")

    def _model(self, name: str) -> str:
        if name.startswith("tool:"):
            return "tool"
        return name if name in self._models else _OTHER

    # --------------------------------------------------------------------------------------------------------- a scrape

    def show(self, reading: Reading) -> bytes:
        """All of it in Prometheus's text format. Takes milliseconds: call it in a thread."""
        self._reading = reading
        return generate_latest(self.registry)


class MetricsPage:
    """What is scraped: the same for all who come within `FRESH_S`."""

    def __init__(self, metrics: Metrics, sources: Sources, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._sources = sources
        self._clock = clock
        self._turn = asyncio.Lock()
        self._body = b""
        self._until = 0.0

    async def read(self) -> bytes:
        """The text, of the type `CONTENT_TYPE_LATEST`."""
        async with self._turn:
            if not self._body or self._clock() >= self._until:
                reading = await self._sources.read()
                self._body = await asyncio.to_thread(self._metrics.show, reading)
                self._until = self._clock() + FRESH_S
            return self._body


class _Bounded:
    """A counter whose labels have a bounded number of values between them. Its children are looked up once each."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._children: dict[tuple[str, ...], Counter] = {}

    def add(self, *values: str, more: float = 1) -> None:
        child = self._children.get(values)
        if child is None:
            if len(self._children) >= _VALUES_MAX:
                values = (_OTHER,) * len(values)
            child = self._children.setdefault(values, self._counter.labels(*values))
        child.inc(more)


class _Gauges:
    """What is asked when somebody scrapes."""

    def __init__(self, reading: Callable[[], Reading]) -> None:
        self._reading = reading

    def describe(self) -> Iterator[Metric]:
        return self._gauges(Reading(unsigned=0))

    def collect(self) -> Iterator[Metric]:
        return self._gauges(self._reading())

    def _gauges(self, now: Reading) -> Iterator[Metric]:
        yield GaugeMetricFamily("belljar_boxes", "Boxes of runs under way.", value=now.boxes)
        ready = GaugeMetricFamily("belljar_boxes_ready", "Unused boxes, ready for runs.", labels=["backend"])
        for backend, value in now.ready.items():
            ready.add_metric([backend], value)
        yield ready
        yield GaugeMetricFamily("belljar_queue_length", "Orders that wait for their turn.", value=now.queued)
        yield GaugeMetricFamily("belljar_orders_running", "Orders under way.", value=now.running)
        if now.unsigned is not None:
            yield GaugeMetricFamily(
                "belljar_log_unsigned_records", "Records that no checkpoint vouches for yet.", value=now.unsigned
            )
        for name, about, value in (
            ("belljar_traces_dropped", "Runs of which a collector did not get all spans.", now.traces_dropped),
            ("belljar_traces_sent", "Runs of which a collector got all spans.", now.traces_sent),
        ):
            yield CounterMetricFamily(name, about, value=value)
        yield from self._quotas(now.quotas)

    def _quotas(self, quotas: Sequence[Quota]) -> Iterator[Metric]:
        """Of the first level of tenants, those that have limits; in the order of their names, up to a bound."""
        labels = ["tenant", "period", "dimension"]
        used, held, limit = (
            GaugeMetricFamily(f"belljar_quota_{name}", about, labels=labels)
            for name, about in (
                ("used", "What was charged in the period."),
                ("held", "What is under way may still cost that much."),
                ("limit", "What may be used in the period."),
            )
        )
        tenants: set[str] = set()
        for quota in quotas:
            if "/" in quota.tenant or quota.limits is None:
                continue
            tenants.add(quota.tenant)
            if len(tenants) > TENANTS_MAX:
                break
            for dimension in _DIMENSIONS:
                if (bound := getattr(quota.limits, dimension)) is not None:
                    place = [quota.tenant, quota.period, dimension]
                    used.add_metric(place, getattr(quota.used, dimension))
                    held.add_metric(place, getattr(quota.held, dimension))
                    limit.add_metric(place, bound)
        yield from (used, held, limit)


def _first_levels(places: Sequence[Place]) -> Sequence[Place]:
    """Of all tenants, those that are shown."""
    found = [place for place in places if place.is_limited and "/" not in place.level]
    names = set(list(dict.fromkeys(place.level for place in found))[:TENANTS_MAX])
    return [place for place in found if place.level in names]


def _kind(run: str) -> str:
    return "child" if "." in run else "root"
