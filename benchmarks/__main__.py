"""`python -m benchmarks [TABLE]`: measures; tables go to stdout, progress to stderr."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from belljar.errors import BelljarError
from belljar.runtime import Runtime
from belljar.sandbox.docker.daemon import Daemon
from belljar.sandbox.docker.versions import read_engine
from belljar.state import State
from benchmarks.batches import BatchPlan, BatchTable, measure_batches
from benchmarks.box_table import measure_boxes
from benchmarks.container_table import measure_containers
from benchmarks.context_table import measure_contexts
from benchmarks.context_texts import SIZES, Size
from benchmarks.floors import Floor
from benchmarks.log_rows import LogPlan, LogTable
from benchmarks.log_store import RUN_RECORDS_MIN
from benchmarks.logs import measure_logs
from benchmarks.measure import BenchmarkError, BoxPlan, ContextPlan, Plan, Samples, Subject, measure
from benchmarks.ours import POLICY, Belljar, BelljarInMemory
from benchmarks.peers import Rlms, peer_python
from benchmarks.programs import Text, write_text
from benchmarks.quota_table import measure_quotas
from benchmarks.report import BoxTable, QuotaPlan, QuotaTable, Report, SessionTable, as_json, as_markdown, machine
from benchmarks.services import ServicePlan, ServiceTable, measure_services
from benchmarks.soak import SoakPlan, as_text, soak
from benchmarks.stats import milliseconds
from benchmarks.trees import TreePlan, TreeTable, measure_trees
from tests.daemon import PrivateDaemon, Unavailable

_P = TypeVar("_P", Plan, BoxPlan, ContextPlan, QuotaPlan, TreePlan, BatchPlan, LogPlan, ServicePlan)

# 20 rounds are enough for a 90th percentile with two samples beyond it, and take about a minute.
_FULL = Plan(rounds=20, cells=50, queries=20)
_QUICK = Plan(rounds=3, cells=10, queries=5)
_FULL_BOXES = BoxPlan(rounds=20, starts=5, quiet=2, cells=50, queries=50, sustained_s=3.0, idle_boxes=20)
_QUICK_BOXES = BoxPlan(rounds=3, starts=3, quiet=2, cells=10, queries=10, sustained_s=0.5, idle_boxes=20)
# Containers are a hundred times slower: a round of these takes about a minute.
_FULL_CONTAINERS = BoxPlan(rounds=10, starts=2, quiet=0, cells=20, queries=50, sustained_s=0, idle_boxes=0)
_QUICK_CONTAINERS = BoxPlan(rounds=1, starts=1, quiet=0, cells=5, queries=5, sustained_s=0, idle_boxes=0)
# A gigabyte takes all of them together more than a minute a round.
_FULL_CONTEXTS = ContextPlan(rounds=3, starts=5)
_QUICK_CONTEXTS = ContextPlan(rounds=1, starts=3)
_FULL_QUOTAS = QuotaPlan(rounds=5, seconds=1.0)
_QUICK_QUOTAS = QuotaPlan(rounds=1, seconds=0.2)
# To write a million records takes a minute or two in each store.
_FULL_GROWTH = (100_000, 1_000_000)
_QUICK_GROWTH = (10_000,)
_FULL_TREES = TreePlan(rounds=3, depth=3, fan_out=8)
_QUICK_TREES = TreePlan(rounds=1, depth=2, fan_out=3)
_FULL_BATCHES = BatchPlan(rounds=7, queries=1000, parallel=100, call_s=0.1)
_QUICK_BATCHES = BatchPlan(rounds=1, queries=200, parallel=50, call_s=0.1)
# A million records take a minute to make, and a million tokens some seconds to go through.
_FULL_LOGS = LogPlan(rounds=5, seconds=1.0, tokens=2**20, records=1_000_000)
_QUICK_LOGS = LogPlan(rounds=1, seconds=0.2, tokens=2**14, records=20_000)
_FULL_SERVICES = ServicePlan(rounds=3, singles=50, at_once=200, listeners=1000)
_QUICK_SERVICES = ServicePlan(rounds=1, singles=5, at_once=20, listeners=20)
_FULL_SIZES = ("1KB", "1MB", "50MB", "1GB")
_QUICK_SIZES = ("1KB", "1MB", "50MB")

_SOAK_KILL_S = (0.0, 25.0)

# Tables that need no containers.
_NO_DAEMON = ("session", "jail", "quota", "tree", "batch", "log", "service")

_NOTES = (
    "Belljar runs guest code in a fresh box for each start: namespaces, its own root file system, resource limits, and "
    f"the policy `{POLICY}`; every query is in the log and in the ledger, on the disk, before it leaves the host. The "
    "column *in memory* keeps both in memory instead: nobody should run it so; the difference is what durability "
    "costs. A start is one in a process that has started a box before, as in a service. The box image was built "
    "before, once; the text was registered before, once, and is recognised while its file is unchanged.",
    "rlms *local* has no isolation at all: guest code is `exec` in the host's own process, with its files, its "
    "network and its environment, no limits, and nothing is recorded here. Its numbers say what a wall and a log cost, "
    "not which of the two is better at the same job. Its start is its query handler and its REPL, as its own "
    "completion loop makes them; loading its modules, once per process, is not counted. It reads the text as one `str` "
    "into its process, which its start with the text pays for; its slices are then cut from that.",
    "The floor of *start* is `python -I -S -c pass`; the floor of the reads is plain Python over the same file, with "
    "its pages in memory. A query is timed by the guest program itself, all else by the caller. The text is ASCII.",
)


def main() -> int:
    options = _options(sys.argv[1:])
    try:
        if options.table == "soak":
            return asyncio.run(_soak(options))
        report = asyncio.run(_run(options, sys.argv[1:]))
    except (BenchmarkError, BelljarError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(as_json(report) if options.json else as_markdown(report))
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Belljar side by side with peers.")
    parser.add_argument(
        "table",
        nargs="?",
        choices=["session", "jail", "docker", "context", "quota", "tree", "batch", "log", "service", "soak"],
        help="whole sessions, boxes alone, boxes in containers (of the daemon that DOCKER_HOST names, else of one "
        "of our own), contexts of several sizes, quota and log alone, a tree of child runs, a batch of queries, the "
        "log: written, kept and read, or the service over HTTP (default: all of these); or a soak, which measures "
        "nothing: services are killed under their clients, and everything has to be right in the end",
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions, to see that it works")
    parser.add_argument("--rounds", type=_positive, help=f"repetitions of everything (default {_FULL.rounds})")
    parser.add_argument(
        "--json", action="store_true", help="one JSON document, with all samples (of quotas: percentiles)"
    )
    parser.add_argument("--no-peers", action="store_true", help="install and measure no peers")
    parser.add_argument(
        "--language",
        choices=["restricted", "python"],
        default="restricted",
        help="of the table of sessions (boxes: both)",
    )
    parser.add_argument(
        "--sizes",
        type=_sizes,
        help=f"of contexts, of {', '.join(SIZES)} (default {','.join(_FULL_SIZES)}; quick {','.join(_QUICK_SIZES)})",
    )
    parser.add_argument(
        "--growth",
        type=_records,
        help="records in the store for the table of quotas, up to ten million, or 0 for no such rows (default "
        f"{','.join(map(str, _FULL_GROWTH))}; quick {','.join(map(str, _QUICK_GROWTH))})",
    )
    parser.add_argument(
        "--records",
        type=_of_a_log,
        help=f"in the log that is read (default {_FULL_LOGS.records:,}; quick {_QUICK_LOGS.records:,})",
    )
    soaking = parser.add_argument_group("of a soak")
    soaking.add_argument("--minutes", type=float, default=10.0, help="how long clients order (default 10)")
    soaking.add_argument("--services", type=int, choices=[1, 2], default=1, help="two are on one PostgreSQL")
    soaking.add_argument("--clients", type=_positive, default=12, help="how many at once (default 12)")
    soaking.add_argument("--seed", type=int, default=1, help="of what they do, and of the kills (default 1)")
    parser.add_argument("--scratch", type=Path, help="where to make the temporary folder for state and text")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _of_a_log(text: str) -> int:
    number = int(text)
    if number < RUN_RECORDS_MIN:
        raise argparse.ArgumentTypeError(f"at least {RUN_RECORDS_MIN}")
    return number


def _records(text: str) -> list[int]:
    return sorted({number for number in map(int, text.split(",")) if number > 0})


def _sizes(text: str) -> list[Size]:
    keys = text.split(",")
    if unknown := [key for key in keys if key not in SIZES]:
        raise argparse.ArgumentTypeError(f"no such size: {', '.join(unknown)}")
    return [SIZES[key] for key in dict.fromkeys(keys)]


async def _run(options: argparse.Namespace, arguments: Sequence[str]) -> Report:
    with contextlib.ExitStack() as stack:
        scratch = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="belljar-benchmarks-", dir=options.scratch))
        )
        no_daemon = "" if options.table in _NO_DAEMON else _find_daemon(stack)
        if options.table == "docker" and no_daemon:
            raise BenchmarkError(no_daemon)
        facts = machine(scratch)
        versions = {"belljar": f"{version('belljar')}, policy {POLICY}"}
        sessions = await _sessions(options, scratch, versions) if options.table in (None, "session") else None
        boxes = await _boxes(options, scratch) if options.table in (None, "jail") else None
        containers = None
        if options.table in (None, "docker"):
            if no_daemon:
                versions["boxes in containers"] = no_daemon
            else:
                containers = await _containers(options, scratch, os.environ["DOCKER_HOST"], versions)
        contexts = await _contexts(options, scratch) if options.table in (None, "context") else None
        quotas = await _quotas(options, scratch) if options.table in (None, "quota") else None
        trees = await _trees(options, scratch) if options.table in (None, "tree") else None
        batches = await _batches(options, scratch) if options.table in (None, "batch") else None
        logs = await _logs(options, scratch) if options.table in (None, "log") else None
        services = await _services(options, scratch) if options.table in (None, "service") else None
    command = shlex.join(["python", "-m", "benchmarks", *arguments])
    return Report(
        command, facts, versions, sessions, boxes, containers, contexts, quotas, trees, batches, logs, services
    )


async def _soak(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="belljar-soak-", dir=options.scratch) as scratch:
        plan = SoakPlan(
            seed=options.seed,
            seconds=60 * options.minutes,
            services=options.services,
            clients=options.clients,
            kill_s=_SOAK_KILL_S,
        )
        table = await soak(plan, Path(scratch), _progress)
    print(json.dumps(dataclasses.asdict(table)) if options.json else as_text(table))
    return 1 if table.wrong else 0


def _find_daemon(stack: contextlib.ExitStack) -> str:
    """See that DOCKER_HOST names a daemon: the caller's, else one of ours until `stack` ends. Or why there is none."""
    if os.environ.get("DOCKER_HOST"):
        return ""
    try:
        daemon = stack.enter_context(PrivateDaemon())
    except Unavailable as error:
        _progress(f"no containers: {error}")
        return f"{error}; or name a daemon in DOCKER_HOST, one with nothing else to do"
    os.environ["DOCKER_HOST"] = daemon.host
    return ""


def _plan(options: argparse.Namespace, full: _P, quick: _P) -> _P:
    plan = quick if options.quick else full
    return dataclasses.replace(plan, rounds=options.rounds) if options.rounds else plan


async def _sessions(options: argparse.Namespace, scratch: Path, versions: dict[str, str]) -> SessionTable:
    plan = _plan(options, _FULL, _QUICK)
    python = None if options.no_peers else await asyncio.to_thread(peer_python, "rlms", _progress)
    _progress("writing the text")
    text = await asyncio.to_thread(write_text, scratch / "text.txt")
    samples = await _measure(options, plan, text, scratch, python, versions)
    return SessionTable(plan, text, samples, _NOTES)


async def _boxes(options: argparse.Namespace, scratch: Path) -> BoxTable:
    plan = _plan(options, _FULL_BOXES, _QUICK_BOXES)
    _progress("boxes: getting ready")
    work = scratch / "boxes"
    work.mkdir()
    images = State(scratch / "state").images
    return await measure_boxes(plan, images, work, peers=not options.no_peers, progress=_progress)


async def _containers(options: argparse.Namespace, scratch: Path, host: str, versions: dict[str, str]) -> BoxTable:
    plan = _plan(options, _FULL_CONTAINERS, _QUICK_CONTAINERS)
    _progress("containers: getting ready")
    versions["Docker"] = await _docker_versions(host)
    work = scratch / "containers"
    work.mkdir()
    images = State(scratch / "state").images
    return await measure_containers(plan, host, images, work, peers=not options.no_peers, progress=_progress)


async def _contexts(options: argparse.Namespace, scratch: Path) -> BoxTable:
    plan = _plan(options, _FULL_CONTEXTS, _QUICK_CONTEXTS)
    sizes = options.sizes or [SIZES[key] for key in (_QUICK_SIZES if options.quick else _FULL_SIZES)]
    _progress("contexts: getting ready")
    work = scratch / "contexts"
    work.mkdir()
    return await measure_contexts(plan, sizes, scratch / "state", work, peers=not options.no_peers, progress=_progress)


async def _quotas(options: argparse.Namespace, scratch: Path) -> QuotaTable:
    plan = _plan(options, _FULL_QUOTAS, _QUICK_QUOTAS)
    growth = _QUICK_GROWTH if options.quick else _FULL_GROWTH
    _progress("quotas: getting ready")
    work = scratch / "quotas"
    work.mkdir()
    return await measure_quotas(plan, growth if options.growth is None else options.growth, work, _progress)


async def _trees(options: argparse.Namespace, scratch: Path) -> TreeTable:
    plan = _plan(options, _FULL_TREES, _QUICK_TREES)
    _progress("trees: getting ready")
    return await measure_trees(plan, scratch / "trees", _progress)


async def _batches(options: argparse.Namespace, scratch: Path) -> BatchTable:
    plan = _plan(options, _FULL_BATCHES, _QUICK_BATCHES)
    _progress("batches: getting ready")
    work = scratch / "batches"
    work.mkdir()
    return await measure_batches(plan, work, peers=not options.no_peers, progress=_progress)


async def _logs(options: argparse.Namespace, scratch: Path) -> LogTable:
    plan = _plan(options, _FULL_LOGS, _QUICK_LOGS)
    if options.records:
        plan = dataclasses.replace(plan, records=options.records)
    _progress("logs: getting ready")
    work = scratch / "logs"
    work.mkdir()
    return await measure_logs(plan, work, _progress)


async def _services(options: argparse.Namespace, scratch: Path) -> ServiceTable:
    plan = _plan(options, _FULL_SERVICES, _QUICK_SERVICES)
    _progress("service: getting ready")
    work = scratch / "services"
    work.mkdir()
    return await measure_services(plan, work, _progress)


async def _docker_versions(host: str) -> str:
    with contextlib.closing(Daemon(host)) as daemon:
        engine = read_engine(await daemon.ask(daemon.client.version), await daemon.ask(daemon.client.info))
    runsc = "none" if engine.runsc is None else f"platform {engine.runsc.platform}"
    return f"Engine {engine.engine}, runc {engine.runc}, runsc: {runsc}, control groups v{engine.cgroup_version}"


async def _measure(
    options: argparse.Namespace,
    plan: Plan,
    text: Text,
    scratch: Path,
    python: Path | None,
    versions: dict[str, str],
) -> dict[str, Samples]:
    versions["language of sessions"] = options.language
    async with contextlib.AsyncExitStack() as stack:
        runtime = Runtime(POLICY, state=scratch / "state", backend="jail", language=options.language)
        await stack.enter_async_context(runtime)
        _progress("building the box image")
        started = time.perf_counter()
        await runtime.prepare()
        versions["box image"] = f"built once, in {time.perf_counter() - started:.1f} s"
        ours = Belljar(runtime)
        async with ours.open(None) as box:
            versions["first box of a process"] = f"{milliseconds(box.open_s)} ms; the table has later ones"
        in_memory = await stack.enter_async_context(BelljarInMemory(runtime.state, options.language))
        subjects: list[Subject] = [ours, in_memory]
        if python is not None:
            peer = await stack.enter_async_context(Rlms(python, scratch))
            versions["rlms"] = f"{peer.version}, environment local: no isolation at all"
            subjects.append(peer)
        return await measure([*subjects, Floor()], plan.rounds, lambda subject: subject.round(plan, text), _progress)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
