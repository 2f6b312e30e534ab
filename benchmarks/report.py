"""What is printed: Markdown tables and what it takes to read them, or one JSON document with all samples."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks.batches import CPU_GOAL, WALL_GOAL, BatchTable
from benchmarks.log_rows import LogTable
from benchmarks.measure import BoxPlan, ContextPlan, Plan, Samples
from benchmarks.programs import Text
from benchmarks.quota_rows import GROWTH_GOAL, Growth, Overshoot, QuotaRow
from benchmarks.rows import Row
from benchmarks.services import ServiceTable
from benchmarks.stats import milliseconds, summarise
from benchmarks.trees import GOAL as TREE_GOAL
from benchmarks.trees import TreeTable

__all__ = [
    "SCHEMA_VERSION",
    "BoxTable",
    "QuotaPlan",
    "QuotaTable",
    "Report",
    "SessionTable",
    "as_json",
    "as_markdown",
    "machine",
]

SCHEMA_VERSION: Final = 1

_MEASURES: Final = {
    "start": "start: request to box ready",
    "first": "start: request to first result of guest code",
    "start_text": "start with the text as context",
    "cell": "one empty cell",
    "query": "one `llm_query`, null model",
    "slices": "read the text inside, 1 MiB slices",
    "lines": "read the text inside, `context.splitlines()`",
}


@dataclass(frozen=True)
class SessionTable:
    """`samples` are seconds, by subject and measure. `notes` are Markdown, a paragraph each."""

    plan: Plan
    text: Text
    samples: Mapping[str, Samples]
    notes: Sequence[str]


@dataclass(frozen=True)
class BoxTable:
    """`isolation` says for each subject what stands between guest code and the host; `absent`, who is not here and why.

    `about` is a sentence on what is measured. `notes` are Markdown, a paragraph each.
    """

    title: str
    about: str
    plan: BoxPlan | ContextPlan
    rows: Sequence[Row]
    isolation: Mapping[str, str]
    absent: Mapping[str, str]
    notes: Sequence[str]


@dataclass(frozen=True)
class QuotaPlan:
    """In each of `rounds`, everybody acts for so many `seconds` in each way."""

    rounds: int
    seconds: float


@dataclass(frozen=True)
class QuotaTable:
    """`absent`: what is not here and why. `notes` are Markdown, a paragraph each."""

    plan: QuotaPlan
    rows: Sequence[QuotaRow]
    overshoots: Sequence[Overshoot]
    grown: Sequence[Growth]
    absent: Mapping[str, str]
    notes: Sequence[str]


@dataclass(frozen=True)
class Report:
    command: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    sessions: SessionTable | None
    boxes: BoxTable | None
    containers: BoxTable | None
    contexts: BoxTable | None
    quotas: QuotaTable | None
    trees: TreeTable | None
    batches: BatchTable | None
    logs: LogTable | None
    services: ServiceTable | None = None


def machine(scratch: Path) -> dict[str, str]:
    """Facts about this machine that the numbers depend on. `scratch` is where the state folder is."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return {
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "file system of log and ledger": _file_system(scratch),
        "load average before (1, 5, 15 min)": load,
    }


def as_markdown(report: Report) -> str:
    facts = [f"- {name}: {value}" for name, value in {**report.machine, **report.versions}.items()]
    sections = [
        *(_sessions(report.sessions) if report.sessions else []),
        *(_boxes(report.boxes) if report.boxes else []),
        *(_boxes(report.containers) if report.containers else []),
        *(_boxes(report.contexts) if report.contexts else []),
        *(_quotas(report.quotas) if report.quotas else []),
        *(_trees(report.trees) if report.trees else []),
        *(_batches(report.batches) if report.batches else []),
        *(_logs(report.logs) if report.logs else []),
        *(_services(report.services) if report.services else []),
    ]
    return "\n".join(["# Benchmarks", "", f"`{report.command}`", "", *facts, "", *sections]).rstrip()


def as_json(report: Report) -> str:
    """The table of sessions is spread over the document; each other one is below the word that `ARGS` has for it."""
    document: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "command": report.command,
        "machine": dict(report.machine),
        "versions": dict(report.versions),
    }
    if report.sessions:
        document |= _sessions_json(report.sessions)
    if report.boxes:
        document["jail"] = _boxes_json(report.boxes)
    if report.containers:
        document["docker"] = _boxes_json(report.containers)
    if report.contexts:
        document["context"] = _boxes_json(report.contexts)
    if report.quotas:
        document["quota"] = _quotas_json(report.quotas)
    if report.trees:
        document["tree"] = _trees_json(report.trees)
    if report.batches:
        document["batch"] = _batches_json(report.batches)
    if report.logs:
        document["log"] = _logs_json(report.logs)
    if report.services:
        document["service"] = _services_json(report.services)
    return json.dumps(document, indent=2)


# ------------------------------------------------------------------------------------------------ the table of sessions


def _sessions(table: SessionTable) -> list[str]:
    return [
        "## Sessions",
        "",
        f"A whole session, over a text of {table.text.chars:,} ASCII characters, the sources of the Python above.",
        f"Milliseconds, median / 90th percentile (repetitions). {table.plan.rounds} rounds, all subjects in each.",
        "",
        *_grid(table.samples),
        "",
        *[line for note in table.notes for line in (note, "")],
    ]


def _sessions_json(table: SessionTable) -> dict[str, object]:
    results = {
        title: {
            name: {**dataclasses.asdict(summarise(seconds)), "samples": [round(value, 9) for value in seconds]}
            for name, seconds in samples.items()
        }
        for title, samples in table.samples.items()
    }
    return {
        "plan": dataclasses.asdict(table.plan),
        "text_chars": table.text.chars,
        "unit": "s",
        "measures": _MEASURES,
        "results": results,
        "notes": list(table.notes),
    }


def _grid(samples: Mapping[str, Samples]) -> list[str]:
    header = f"| ms | {' | '.join(samples)} |"
    rows = [
        f"| {label} | {' | '.join(_entry(of_subject.get(name)) for of_subject in samples.values())} |"
        for name, label in _MEASURES.items()
    ]
    return [header, "|---|" + "---:|" * len(samples), *rows]


def _entry(seconds: Sequence[float] | None) -> str:
    if not seconds:
        return "–"
    summary = summarise(seconds)
    return f"{milliseconds(summary.median)} / {milliseconds(summary.p90)} ({summary.n})"


# -------------------------------------------------------------------------------------------------- the tables of boxes


def _boxes(table: BoxTable) -> list[str]:
    return [
        f"## {table.title}",
        "",
        f"{table.about} {table.plan.rounds} rounds, all subjects in each.",
        "",
        *_lines(table.rows),
        "",
        "What stands between guest code and the host:",
        "",
        *[f"- {who}: {isolation}" for who, isolation in table.isolation.items()],
        "",
        *_absent(table.absent),
        *[line for note in table.notes for line in (note, "")],
    ]


def _lines(rows: Sequence[Row]) -> list[str]:
    return [
        "| what | who | median | 90th percentile | n | unit | goal | |",
        "|---|---|---:|---:|---:|---|---:|---|",
        *[_line(row) for row in rows],
    ]


def _absent(absent: Mapping[str, str]) -> list[str]:
    if not absent:
        return []
    return ["Not measured here:", "", *[f"- {who}: {reason}" for who, reason in absent.items()], ""]


def _line(row: Row) -> str:
    # `milliseconds` takes seconds; here the number is in the row's unit already.
    value, p90 = milliseconds(row.value / 1000), "–" if row.p90 is None else milliseconds(row.p90 / 1000)
    goal = "" if row.goal is None else str(row.goal)
    verdict = {None: "", True: "met", False: "not met"}[row.met]
    count = str(len(row.samples)) if row.samples else "–"
    return f"| {row.label} | {row.who} | {value} | {p90} | {count} | {row.unit} | {goal} | {verdict} |"


def _boxes_json(table: BoxTable) -> dict[str, object]:
    return {
        "plan": dataclasses.asdict(table.plan),
        "rows": [_row_json(row) for row in table.rows],
        "isolation": dict(table.isolation),
        "absent": dict(table.absent),
        "notes": list(table.notes),
    }


def _row_json(row: Row) -> dict[str, object]:
    return {
        "measure": row.measure,
        "label": row.label,
        "who": row.who,
        "unit": row.unit,
        "value": round(row.value, 6),
        "p90": None if row.p90 is None else round(row.p90, 6),
        "n": len(row.samples),
        "goal": None if row.goal is None else str(row.goal),
        "met": row.met,
        "samples": [round(value, 6) for value in row.samples],
    }


# ------------------------------------------------------------------------------------------------- the table of quotas


def _quotas(table: QuotaTable) -> list[str]:
    return [
        "## Quotas",
        "",
        f"What quota and log add to a model call. {table.plan.rounds} rounds of {table.plan.seconds:g} s, all in each.",
        "",
        "| callers | who | p50, ms | p99, ms | actions/s | CPU, µs | goals |",
        "|---|---|---:|---:|---:|---:|---|",
        *[_quota_line(row) for row in table.rows],
        "",
        "| callers | who | limit | spent | overspent |",
        "|---|---|---:|---:|---:|",
        *[f"| {one.shape.title} | {one.who} | {one.limit} | {one.spent} | {one.over} |" for one in table.overshoots],
        "",
        *_grown(table.grown),
        *_absent(table.absent),
        *[line for note in table.notes for line in (note, "")],
    ]


def _quota_line(row: QuotaRow) -> str:
    goals = ", ".join(f"{goal}: {'met' if met else 'not met'}" for goal, met in row.verdicts.items())
    return f"| {row.shape.title} | {row.who} | {_quota_numbers(row)} | {goals} |"


def _quota_numbers(row: QuotaRow) -> str:
    p50, p99 = milliseconds(row.p50_ms / 1000), milliseconds(row.p99_ms / 1000)
    return f"{p50} | {p99} | {row.per_second:.0f} | {row.cpu_us:.0f}"


def _grown(grown: Sequence[Growth]) -> list[str]:
    if not grown:
        return []
    return [
        "In a store that has grown, with a tenth as many reservations as records; the ratio is of the medians:",
        "",
        f"| records | callers | who | p50, ms | p99, ms | actions/s | CPU, µs | times a new one | goal {GROWTH_GOAL} |",
        "|---:|---|---|---:|---:|---:|---:|---:|---|",
        *[
            f"| {one.records:,} | {one.full.shape.title} | {one.full.who} | {_quota_numbers(one.full)} | "
            f"{one.ratio:.2f} | {'met' if one.met else 'not met'} |"
            for one in grown
        ],
        "",
    ]


def _quotas_json(table: QuotaTable) -> dict[str, object]:
    """Of hundreds of thousands of actions it has the percentiles."""
    return {
        "plan": dataclasses.asdict(table.plan),
        "rows": [_quota_json(row) for row in table.rows],
        "overspent": [
            {"who": one.who, "callers": one.shape.title, "limit": one.limit, "spent": one.spent}
            for one in table.overshoots
        ],
        "growth": [
            {"records": one.records, "ratio": round(one.ratio, 4), "met": one.met}
            | {"full": _quota_json(one.full), "new": _quota_json(one.new)}
            for one in table.grown
        ],
        "absent": dict(table.absent),
        "notes": list(table.notes),
    }


def _quota_json(row: QuotaRow) -> dict[str, object]:
    return {
        "who": row.who,
        "callers": row.shape.title,
        "n": len(row.taken_us),
        "p50_ms": round(row.p50_ms, 4),
        "p99_ms": round(row.p99_ms, 4),
        "per_second": round(row.per_second, 1),
        "cpu_us": round(row.cpu_us, 1),
        "goals": row.verdicts,
    }


# ---------------------------------------------------------------------------------------------------------- the machine


def _processor() -> str:
    """The kernel's name for it, where it has one."""
    with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return "unknown"


def _file_system(path: Path) -> str:
    """Its type. In memory, a flush costs nothing; on a disk it is most of what a query costs."""
    real = path.resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[folder] for folder in (real, *real.parents) if folder in mounts), "unknown")


# -------------------------------------------------------------------------------------------------- the table of trees


def _trees(table: TreeTable) -> list[str]:
    plan, met = table.plan, "met" if TREE_GOAL.met(table.ms_per_child) else "not met"
    return [
        "## Trees of runs",
        "",
        f"{plan.depth} levels of child runs, {plan.fan_out} of each run, {plan.side_by_side} of these side by side. "
        f"{plan.rounds} rounds with the null model. In each the books were exact, the log verified, no box was left.",
        "",
        "| runs | ms for each child run, median | goal |",
        "|---:|---:|---|",
        f"| {plan.runs} | {table.ms_per_child:.2f} | {TREE_GOAL}: {met} |",
        "",
    ]


def _trees_json(table: TreeTable) -> dict[str, object]:
    met = TREE_GOAL.met(table.ms_per_child)
    return {
        "plan": dataclasses.asdict(table.plan),
        "runs": table.plan.runs,
        "taken_s": list(table.taken_s),
        "ms_per_child": table.ms_per_child,
        "goal": str(TREE_GOAL),
        "met": met,
    }


# ------------------------------------------------------------------------------------------------ the table of batches


def _batches(table: BatchTable) -> list[str]:
    plan = table.plan
    rows = [
        f"| {subject} | {table.wall_s(subject):.3f} | {max(one.wall_s for one in taken):.3f} "
        f"| {table.cpu_us(subject):.0f} |"
        for subject, taken in table.taken.items()
    ]
    return [
        "## Batches of queries",
        "",
        f"{plan.queries} queries to a model that takes {plan.call_s * 1000:g} ms, {plan.parallel} side by side: "
        f"{plan.ideal_s:g} s at best. {plan.rounds} rounds. Ours has a goal for 1000 queries of 100 ms, 100 side by "
        f"side: {WALL_GOAL} s and {CPU_GOAL} µs. Peers by themselves take 16 and 8 side by side.",
        "",
        "| | s, median | s, worst | CPU, µs for each query |",
        "|---|---:|---:|---:|",
        *rows,
        "",
    ]


def _batches_json(table: BatchTable) -> dict[str, object]:
    return {
        "plan": dataclasses.asdict(table.plan),
        "ideal_s": table.plan.ideal_s,
        "taken": {subject: [one._asdict() for one in taken] for subject, taken in table.taken.items()},
    }


# ------------------------------------------------------------------------------------------------- the table of the log


def _logs(table: LogTable) -> list[str]:
    plan = table.plan
    return [
        "## The log",
        "",
        f"{plan.rounds} rounds, all in each. The demo is of {plan.tokens:,} tokens; the log that is read is of "
        f"{plan.records:,} records, of {plan.runs:,} runs.",
        "",
        *_lines(table.rows),
        "",
        *_absent(table.absent),
        *[line for note in table.notes for line in (note, "")],
    ]


def _logs_json(table: LogTable) -> dict[str, object]:
    return {
        "plan": dataclasses.asdict(table.plan),
        "rows": [_row_json(row) for row in table.rows],
        "absent": dict(table.absent),
        "notes": list(table.notes),
    }


# --------------------------------------------------------------------------------------------- the table of the service


def _services(table: ServiceTable) -> list[str]:
    plan = table.plan
    return [
        "## The service",
        "",
        f"{plan.rounds} rounds of {plan.singles} single runs each way, {plan.at_once} orders at once, and "
        f"{plan.listeners} who listen to one run.",
        "",
        *_lines(table.rows),
        "",
        *[line for note in table.notes for line in (note, "")],
    ]


def _services_json(table: ServiceTable) -> dict[str, object]:
    return {
        "plan": dataclasses.asdict(table.plan),
        "rows": [_row_json(row) for row in table.rows],
        "notes": list(table.notes),
    }
