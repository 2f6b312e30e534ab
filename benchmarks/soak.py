"""A soak: services that are killed again and again under their clients, and what has to hold in the end.

    clients ──HTTP──▶ belljar serve ⨯ SIGKILL, start ──▶ log and ledger (a file, or one PostgreSQL for two services)
       │                    │ ╰──▶ boxes
       │                    ▼
       ╰── what they       the provider: what it was
           were told        asked and has answered
                 ╰──────┬──────╯
                        ▼
          compared with the log, the ledger and the machine (`soak_checks`)

Everything is real: the command, its boxes, HTTP, the provider's protocol. A seed decides what clients do and when what
is killed; how far everything has got by then, nobody decides.

Of two services one is killed and the clients go to the other. Hosts that share a database know that one of them is
dead when its lease is over. With `ages`, the row of the killed one is dated back, as if that time had passed; else
everybody waits, as in earnest.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
import httpx2

from belljar.keys import Keys
from belljar.state import State
from benchmarks.measure import BenchmarkError
from benchmarks.provider import Provider
from benchmarks.served import Served
from benchmarks.soak_checks import Found, found_wrong, left_behind
from benchmarks.soak_clients import POOR, Client, Ordered
from tests.integration.support import adopting_orphans
from tests.postgres import Postgres, sql

__all__ = ["SoakPlan", "SoakTable", "as_text", "soak"]

_TENANTS: Final = ("acme", "acme/research", "globex", POOR)
_POOR_CALLS: Final = 60
_SETTLED_S: Final = 240.0
# Before a kill there is something under way.
_ASKED_MIN: Final = 10
_FALSE_STARTS: Final = 0.2
_HOSTS: Final = "SELECT name FROM belljar.hosts"
_AGED: Final = "UPDATE belljar.hosts SET seen = now() - interval '1 hour' WHERE name = $1"


@dataclass(frozen=True)
class SoakPlan:
    """How long, and how much.

    Attributes:
        seconds: for so long, or until `kills_max` kills, clients order of one of these `services` or the other.
        kill_s: so long (from, to) after a service has let the provider be asked for something, one is killed.
        ages: as the module says.
    """

    seed: int
    seconds: float
    services: int
    clients: int
    kill_s: tuple[float, float]
    kills_max: int | None = None
    ages: bool = False


@dataclass(frozen=True)
class SoakTable:
    """What happened, and what of it is `wrong`: a line for each, none if all is as it should be."""

    plan: SoakPlan
    took_s: float
    rows: Sequence[tuple[str, str]]
    wrong: Sequence[str]


async def soak(
    plan: SoakPlan,
    scratch: Path,
    progress: Callable[[str], None],
    *,
    images: Path | None = None,
    database: Callable[[], str] | None = None,
) -> SoakTable:
    """
    Args:
        images: a folder with box images that were built before.
        database: makes one on a server that runs, for several services; else a server is started for them.

    Raises:
        BenchmarkError: the services or their clients do not come to an end, or were told something wrong.
    """
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.enter_context(adopting_orphans())
        url = None
        if plan.services > 1:
            url = await asyncio.to_thread(database or stack.enter_context(Postgres()).database)
        async with (
            Provider(plan.seed) as provider,
            _services(plan, scratch, url, provider, images) as (state, services),
        ):
            try:
                clients, kills = await _under_kills(plan, state, services, provider, progress)
            except BenchmarkError as error:
                raise BenchmarkError("\n".join([str(error), *_said(services)])) from error
            progress("the last orders have ended: stopping")
            for one in services:
                await one.stop()
        ordered = [one for client in clients for one in client.ordered]
        found = await asyncio.to_thread(found_wrong, state, Keys(scratch / "keys"), ordered, provider)
        pids = [pid for one in services for pid in one.pids]
        left = await asyncio.to_thread(lambda: [*left_behind(state, scratch / "tmp", pids)])
        wrong = [*found.wrong, *left, *_said(services)]
    counts = sum((client.counts for client in clients), Counter[str]())
    return SoakTable(plan, time.monotonic() - began, _rows(ordered, counts, kills, provider, found), wrong)


@contextlib.asynccontextmanager
async def _services(
    plan: SoakPlan, scratch: Path, url: str | None, provider: Provider, images: Path | None
) -> AsyncIterator[tuple[State, list[Served]]]:
    """The services, not started yet. In the end there is none."""
    home, temporary = scratch / "state", scratch / "tmp"
    home.mkdir(mode=0o700)
    if images is not None:
        (home / "images").symlink_to(images)
    temporary.mkdir()
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(scratch),
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(temporary),
        "BELLJAR_HOME": str(home),
        "BELLJAR_KEYS": str(scratch / "keys"),
        "ANTHROPIC_API_KEY": "sk-ant-soak",
        "ANTHROPIC_BASE_URL": provider.url,
        **({} if url is None else {"BELLJAR_JOURNAL": url}),
    }
    services = [Served(f"service-{number}", environ, scratch) for number in range(plan.services)]
    try:
        yield State(home, url), services
    finally:
        for one in services:
            await one.close()


async def _under_kills(
    plan: SoakPlan, state: State, services: list[Served], provider: Provider, progress: Callable[[str], None]
) -> tuple[list[Client], int]:
    machines = _Hosts(state.url)
    for one in services:
        await machines.start(one)
    assert services[0].key is not None, "it has just been made"
    keys, enough = await _set_up(services[0]), asyncio.Event()
    tenants = [_TENANTS[number % len(_TENANTS)] for number in range(plan.clients)]
    clients = [Client(number, tenant, keys[tenant], services, plan.seed) for number, tenant in enumerate(tenants)]
    working = asyncio.gather(*(client.work(enough) for client in clients))
    try:
        kills = await _kill(plan, machines, services, provider, working, progress)
        enough.set()
        async with asyncio.timeout(_SETTLED_S):
            await working
    except TimeoutError:
        raise BenchmarkError(f"not every order has ended: {_open(clients)}") from None
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    return clients, kills


async def _set_up(service: Served) -> dict[str, str]:
    """A key for each tenant, and the quota of the one that has little."""
    headers = {"authorization": f"Bearer {service.key}"}
    async with httpx2.AsyncClient(base_url=service.url, headers=headers, timeout=60, trust_env=False) as admin:
        limits = {"tenant": POOR, "limits": {"total": {"calls": _POOR_CALLS}}}
        (await admin.patch("/v1/quotas", json=limits)).raise_for_status()
        limits = {"tenant": "acme", "limits": {"day": {"calls": 10**6, "cost_nanousd": 10**12}}}
        (await admin.patch("/v1/quotas", json=limits)).raise_for_status()
        keys = {}
        for tenant in _TENANTS:
            answer = await admin.post("/v1/keys", json={"role": "runner", "tenant": tenant})
            keys[tenant] = str(answer.raise_for_status().json()["text"])
        return keys


async def _kill(
    plan: SoakPlan,
    machines: _Hosts,
    services: list[Served],
    provider: Provider,
    working: asyncio.Future[list[None]],
    progress: Callable[[str], None],
) -> int:
    """Kill one after the other until that is enough, now and then one that has only begun. Returns how often."""
    chance, began, kills = random.Random(f"{plan.seed} kills"), time.monotonic(), 0
    while kills != plan.kills_max and time.monotonic() < began + plan.seconds and not working.done():
        asked = provider.asked.total()
        while provider.asked.total() < asked + _ASKED_MIN and not working.done():  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.02)
        await asyncio.wait([working], timeout=chance.uniform(*plan.kill_s))
        victim = services[chance.randrange(len(services))]
        await victim.kill()
        kills += 1
        progress(f"kill {kills}, after {time.monotonic() - began:.0f} s")
        await asyncio.sleep(chance.uniform(0.0, 1.0))
        if plan.ages:
            await machines.age(victim)
        if chance.random() < _FALSE_STARTS:
            await victim.start_and_kill(chance.uniform(0.0, 3.0))
        await machines.start(victim)
    return kills


class _Hosts:
    """Starts services, and knows which row of a shared database is whose."""

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._names: dict[Served, set[str]] = {}

    async def start(self, service: Served) -> None:
        before = await self._known()
        await service.start()
        self._names[service] = await self._known() - before

    async def age(self, killed: Served) -> None:
        """As if its lease were over."""
        if self._url is not None:
            for name in self._names[killed]:
                await asyncio.to_thread(sql, self._url, _AGED, name)

    async def _known(self) -> set[str]:
        if self._url is None:
            return set()
        return {str(name) for (name,) in await asyncio.to_thread(_hosts, self._url)}


def _hosts(url: str) -> list[tuple[str]]:
    try:
        return [(str(name),) for (name,) in sql(url, _HOSTS)]
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):  # nobody has opened it yet
        return []


def _open(clients: Sequence[Client]) -> str:
    """Of each key that has no end, its latest run."""
    left = [one for client in clients for one in client.ordered if not one.end or one.end == "interrupted"]
    return ", ".join(f"{one.key} ({one.runs[-1] if one.runs else 'no run'})" for one in left[:10])


def _said(services: Sequence[Served]) -> list[str]:
    """What services complained of that they should not have met."""
    found = [(one.messages.name, line) for one in services for line in one.messages.read_text("utf-8").splitlines()]
    bad = [f"{name} has: {line[:300]}" for name, line in found if not line.startswith("{") or _is_error(line)]
    return bad[:20]


def _is_error(line: str) -> bool:
    return json.loads(line)["level"] in ("error", "critical")


# -- telling -----------------------------------------------------------------------------------------------------------


def _rows(
    ordered: Sequence[Ordered], counts: Counter[str], kills: int, provider: Provider, found: Found
) -> list[tuple[str, str]]:
    ends = Counter(one.end for one in ordered)
    made = sum((one.made for one in ordered), Counter[str]())
    heard = [one for one in ordered if one.heard or one.results]
    return [
        ("kills", f"{kills:,}"),
        ("keys, each with one end", f"{len(ordered):,}"),
        *((f"... {end}", f"{count:,}") for end, count in ends.most_common()),
        ("runs, with those below them", f"{found.runs:,}"),
        ("orders interrupted by a kill", f"{counts['interrupted']:,}"),
        ("... taken over with what was answered", f"{made['forked']:,}"),
        ("... made anew", f"{made['anew']:,}"),
        ("keys used for something else, refused", f"{counts['conflicts']:,}"),
        ("requests broken off and made again", f"{counts['broken']:,}"),
        ("listeners; connections taken up again", f"{len(heard):,}; {counts['reconnected']:,}"),
        ("contexts uploaded in pieces", f"{counts['uploads']:,}"),
        ("asked of the provider", f"{sum(provider.asked.values()):,}"),
        ("... it was too busy for", f"{provider.refused:,}"),
        ("... answered", f"{len(provider.answers):,}"),
        ("... paid for, each once", f"{found.paid:,}"),
        ("... under way at a kill, charged at their worst", f"{found.lost:,}"),
        ("answers taken over and not asked for again", f"{found.taken_over:,}"),
        ("records in the log", f"{found.records:,}"),
    ]


def as_text(table: SoakTable) -> str:
    """A table in Markdown, and what was wrong."""
    plan = table.plan
    what = f"{plan.services} services on one PostgreSQL" if plan.services > 1 else "one service on SQLite"
    lines = [
        f"## A soak: {what}, {plan.clients} clients for {plan.seconds:,.0f} s, seed {plan.seed}",
        "",
        "| | |",
        "|---|--:|",
        *(f"| {name} | {value} |" for name, value in table.rows),
        "",
        *(f"WRONG: {line}" for line in table.wrong),
        f"{len(table.wrong)} things wrong; {table.took_s:,.0f} s in all",
    ]
    return "\n".join(lines)
