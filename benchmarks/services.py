"""The ninth table: what it costs to be asked over HTTP.

The service is a process of its own (`python -m benchmarks.services STATE`), over a state and keys of its own: our
`serve` with everything that `belljar serve` has beside it, and a null model that takes 50 ms. Runs are the smallest
there are, so what is measured is HTTP, access, the desk, the log and a box. The Python API is measured beside it, in
turns, in this process.

A round in which anything was refused, or did not end `ok`, or after which log and ledger differ, is no measurement.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import psutil

from belljar.audit import verify
from belljar.host import Host
from belljar.models import ModelReply, ModelRequest, NullModel
from belljar.state import State
from benchmarks.measure import BenchmarkError
from benchmarks.rows import Goal, Row, Unit

__all__ = ["ServicePlan", "ServiceTable", "measure_services"]

_CALL_S: Final = 0.05
_MODEL: Final = "scripted:slow"
_CODE: Final = "FINAL(1)"
_ASKED: Final = {"question": "What is it?", "model": _MODEL}
_PATIENCE_S: Final = 120.0
_SERVICE: Final = "Belljar, HTTP"
_API: Final = "Belljar, the Python API"
_GOALS: Final = {
    "service_ready": Goal(1000),
    "service_memory": Goal(120),
    "service_overhead": Goal(2.0),
    "service_admitted": Goal(250),
}
_NOTES: Final = (
    "A run is `FINAL(1)`, ordered with `Prefer: wait`, over one connection. *Admitted*: from the order to its answer "
    f"(202), of all orders at once, each over an open connection; the model takes {_CALL_S * 1000:g} ms. The value is "
    "the 99th percentile. All of them ended `ok`, and log and ledger agree. Who orders these sends bytes made before: "
    "httpx takes more time for a request than the service, on the same cores. Memory is that of the idle process "
    "(RSS) after the first request.",
)


@dataclass(frozen=True)
class ServicePlan:
    """In each of `rounds` so many single runs each way, so many at once, and so many who listen to one run."""

    rounds: int
    singles: int
    at_once: int
    listeners: int


@dataclass(frozen=True)
class ServiceTable:
    plan: ServicePlan
    rows: Sequence[Row]
    notes: Sequence[str]


class _Slow(NullModel):
    """Answers with the end of the run, after a while."""

    def __init__(self) -> None:
        super().__init__(f"```repl\n{_CODE}\n```", name=_MODEL)

    async def complete(self, request: ModelRequest) -> ModelReply:
        await asyncio.sleep(_CALL_S)
        return await super().complete(request)


async def measure_services(plan: ServicePlan, scratch: Path, progress: Callable[[str], None]) -> ServiceTable:
    """Raises BenchmarkError if a run was refused or failed, or the books are not right."""
    singles: dict[str, list[float]] = {_SERVICE: [], _API: []}
    admitted: list[float] = []
    ended: list[float] = []
    heard: list[float] = []
    state = State(scratch / "service")
    environ = {**os.environ, "BELLJAR_KEYS": str(scratch / "keys"), "BELLJAR_HOME": str(state.root)}
    async with contextlib.AsyncExitStack() as stack:
        host = Host(state=scratch / "api", environ={"HOME": str(scratch)}, models=[_Slow()])
        await stack.enter_async_context(host)
        await host.execute(_CODE)
        started = time.perf_counter()
        process, told = await stack.enter_async_context(_serving(state.root, environ))
        ready_s = time.perf_counter() - started
        headers = {"authorization": f"Bearer {told['key']}"}
        limits = httpx2.Limits(max_connections=plan.at_once + plan.listeners + 10)
        client = await stack.enter_async_context(
            httpx2.AsyncClient(
                base_url=told["url"], headers=headers, timeout=_PATIENCE_S, limits=limits, trust_env=False
            )
        )
        await _one(client)
        memory_mib = psutil.Process(process.pid).memory_info().rss / 2**20
        for number in range(plan.rounds):
            progress(f"service: round {number + 1} of {plan.rounds}")
            for _ in range(plan.singles):
                singles[_SERVICE].append(await _one(client))
                begun = time.perf_counter()
                await host.execute(_CODE)
                singles[_API].append(time.perf_counter() - begun)
            async with _lines(told, plan.at_once) as lines:
                begun = time.perf_counter()
                admitted += await asyncio.gather(*(line.order() for line in lines))
                ended.append(time.perf_counter() - begun)
            heard.append(await _listened(client, plan.listeners))
    report = await asyncio.to_thread(verify, state.journal)  # the log and the ledger, in one snapshot
    if not report.ok:
        raise BenchmarkError(f"the service's log does not verify: {report.problems[:1]}")
    return ServiceTable(plan, _rows(plan, ready_s, memory_mib, singles, admitted, heard), _NOTES)


@contextlib.asynccontextmanager
async def _serving(state: Path, environ: dict[str, str]) -> AsyncIterator[tuple[Process, dict[str, Any]]]:
    command = (sys.executable, "-m", "benchmarks.services", str(state))
    process = await asyncio.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env=environ, cwd=Path(__file__).parents[1]
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), _PATIENCE_S)
        if not line:
            raise BenchmarkError("the service did not start")
        yield process, json.loads(line)
    finally:
        if process.returncode is None:
            process.terminate()
        if await asyncio.wait_for(process.wait(), _PATIENCE_S) != 0:
            raise BenchmarkError(f"the service ended with {process.returncode}")


async def _one(client: httpx2.AsyncClient) -> float:
    begun = time.perf_counter()
    answer = await client.post("/v1/runs", json={"code": _CODE}, headers={"prefer": "wait=60"})
    taken = time.perf_counter() - begun
    if answer.status_code != 200 or answer.json()["state"]["state"] != "ok":
        raise BenchmarkError(f"a run ended with {answer.status_code}: {answer.text[:200]}")
    return taken


class _Line:
    """A connection that orders one run, and costs next to nothing beside what it measures."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, told: dict[str, Any]) -> None:
        self._reader, self._writer = reader, writer
        self._head = f"HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {told['key']}\r\n"
        body = json.dumps(_ASKED)
        self._order = self._request(
            "POST /v1/runs", f"content-type: application/json\r\ncontent-length: {len(body)}", body
        )

    async def order(self) -> float:
        """How long an order took to be admitted; returns when its run has ended."""
        begun = time.perf_counter()
        answer = await self._ask(self._order, 202)
        taken = time.perf_counter() - begun
        state = await self._ask(self._request(f"GET /v1/runs/{answer['run']}", "prefer: wait=60"), 200)
        if state["state"] != "ok":
            raise BenchmarkError(f"a run ended with {state['state']}")
        return taken

    def close(self) -> None:
        self._writer.close()

    def _request(self, what: str, header: str, body: str = "") -> bytes:
        return f"{what} {self._head}{header}\r\n\r\n{body}".encode()

    async def _ask(self, request: bytes, wanted: int) -> dict[str, Any]:
        self._writer.write(request)
        async with asyncio.timeout(_PATIENCE_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            body = await self._reader.readexactly(int(head.partition("content-length:")[2].split()[0]))
        if head.split()[1] != str(wanted):
            raise BenchmarkError(f"an order was answered with {head.split()[1]}: {body[:200]!r}")
        answer: dict[str, Any] = json.loads(body)
        return answer


@contextlib.asynccontextmanager
async def _lines(told: dict[str, Any], count: int) -> AsyncIterator[list[_Line]]:
    url = httpx2.URL(told["url"])
    lines = [_Line(*await asyncio.open_connection(url.host, url.port), told) for _ in range(count)]
    try:
        yield lines
    finally:
        for line in lines:
            line.close()


async def _listened(client: httpx2.AsyncClient, listeners: int) -> float:
    """How long it took until all who listen to one run had heard its result."""

    async def listen(run: str) -> None:
        async with client.stream("GET", f"/v1/runs/{run}/events") as answer:
            async for line in answer.aiter_lines():
                if line == "event: result":
                    return
        raise BenchmarkError("a listener did not hear the result")

    run = (await client.post("/v1/runs", json=_ASKED)).json()["run"]
    begun = time.perf_counter()
    await asyncio.gather(*(listen(run) for _ in range(listeners)))
    return time.perf_counter() - begun


def _rows(
    plan: ServicePlan,
    ready_s: float,
    memory_mib: float,
    singles: dict[str, list[float]],
    admitted: list[float],
    heard: list[float],
) -> list[Row]:
    def row(measure: str, who: str, unit: Unit, value: float, samples: Sequence[float] = (), scale: str = "") -> Row:
        return Row(measure, who, unit, value, _p90(samples), list(samples), _GOALS.get(measure), scale)

    in_ms = {who: [1000 * taken for taken in found] for who, found in singles.items()}
    waited, told = ([1000 * taken for taken in found] for found in (admitted, heard))
    return [
        row("service_ready", _SERVICE, "ms", 1000 * ready_s),
        row("service_memory", _SERVICE, "MiB", memory_mib),
        *(row("service_run", who, "ms", _at(found, 0.5), found) for who, found in in_ms.items()),
        row("service_overhead", _SERVICE, "ms", _at(in_ms[_SERVICE], 0.5) - _at(in_ms[_API], 0.5)),
        row("service_admitted", _SERVICE, "ms", _at(waited, 0.99), waited, f"{plan.at_once} orders at once"),
        row("service_heard", _SERVICE, "ms", _at(told, 0.5), told, f"{plan.listeners} listeners"),
    ]


def _at(found: Sequence[float], share: float) -> float:
    return sorted(found)[min(len(found) - 1, int(share * len(found)))]


def _p90(found: Sequence[float]) -> float | None:
    return _at(found, 0.9) if len(found) > 1 else None


# -- the service -------------------------------------------------------------------------------------------------------


async def _serve(state: Path) -> None:
    from belljar.service.parts import parts
    from belljar.service.server import Ready, serve
    from belljar.service.settings import ServiceSettings

    def ready(told: Ready) -> None:
        print(json.dumps({"url": told.url, "key": told.key}), flush=True)

    settings = ServiceSettings(port=0, queue=5000, queue_per_tenant=5000, running=16, connections=5000)
    host = Host(state=state, models=[_Slow()], pool=4)
    await serve(host, settings, by="benchmark", ready=ready, extras=parts())


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
