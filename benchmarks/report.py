"""What is printed: a Markdown table and what it takes to read it, or one JSON document with all samples."""

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

from benchmarks.measure import Plan, Samples
from benchmarks.programs import Text
from benchmarks.stats import milliseconds, summarise

__all__ = ["SCHEMA_VERSION", "Report", "as_json", "as_markdown", "machine"]

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
class Report:
    """`samples` are seconds, by subject and measure. `notes` are Markdown, a paragraph each."""

    command: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    plan: Plan
    text: Text
    samples: Mapping[str, Samples]
    notes: Sequence[str]


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
    return "\n".join(
        [
            "# Benchmarks",
            "",
            f"`{report.command}`",
            "",
            *facts,
            f"- text: {report.text.chars:,} characters, ASCII, sources of the Python above",
            "",
            f"Milliseconds, median / 90th percentile (repetitions). {report.plan.rounds} rounds, all subjects in each.",
            "",
            *_table(report.samples),
            "",
            *[line for note in report.notes for line in (note, "")],
        ]
    ).rstrip()


def as_json(report: Report) -> str:
    results = {
        title: {
            name: {**dataclasses.asdict(summarise(seconds)), "samples": [round(value, 9) for value in seconds]}
            for name, seconds in samples.items()
        }
        for title, samples in report.samples.items()
    }
    document = {
        "schema_version": SCHEMA_VERSION,
        "command": report.command,
        "machine": dict(report.machine),
        "versions": dict(report.versions),
        "plan": dataclasses.asdict(report.plan),
        "text_chars": report.text.chars,
        "unit": "s",
        "measures": _MEASURES,
        "results": results,
        "notes": list(report.notes),
    }
    return json.dumps(document, indent=2)


def _table(samples: Mapping[str, Samples]) -> list[str]:
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
