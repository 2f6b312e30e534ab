"""`belljar doctor`: what `belljar.doctor` finds out about this host, as text or JSON."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

import click

from belljar.cli import options
from belljar.cli.loop import run_async
from belljar.cli.output import emit, printable, say
from belljar.doctor import BackendReport, Finding, Report, examine
from belljar.identity import BACKENDS, BackendName
from belljar.policy import load

__all__ = ["doctor"]

_DENIED: Final = 4


@click.command()
@click.option("--policy", default="standard", show_default=True, metavar="NAME|FILE", help="The policy to check.")
@click.option(
    "--backend",
    "wanted",
    multiple=True,
    type=click.Choice(BACKENDS),
    help="Examine this backend; may be repeated. [default: each of the policy's]",
)
@options.state
@options.as_json
def doctor(policy: str, wanted: tuple[BackendName, ...], state: Path | str | None, as_json: bool) -> int:
    """Test the wall on this host: which layers hold, what a program inside can reach, known holes of the runtimes.

    It also says whether the log can be signed, and if not, why and what to do; it writes nothing for that.

    Exits with 4 if the policy's default backend, or one named by --backend, cannot start runs.
    """
    loaded = load(policy)
    work = examine(loaded, wanted or None, state=state, config=options.config_file())
    report = run_async(work, closed="its boxes are gone")
    if as_json:
        emit(report)
    else:
        _print(report)
    needed = report.backends if wanted else report.backends[:1]
    return 0 if all(backend.starts for backend in needed) else _DENIED


def _print(report: Report) -> None:
    say(f"kernel {report.kernel}, Python {platform.python_version()}, policy {report.policy}")
    for backend in report.backends:
        say("")
        _print_backend(backend, report.policy)
    say("")
    _print_log(report.log)


def _print_log(findings: list[Finding]) -> None:
    say("log:")
    for finding in findings:
        note = finding.note and f" ({printable(finding.note)})"
        say(f"{'ok' if finding.ok else 'NO':<13} {finding.name}{note}")
        if not finding.ok:
            say(f"{'':<14}{printable(f'{finding.exposes}. {finding.remedy}'.rstrip('. '))}.")
    say(f"log: {'it can be signed' if all(finding.ok for finding in findings) else 'see what is wrong with it'}")


def _print_backend(report: BackendReport, policy: str) -> None:
    if not report.findings:
        say(f"{report.backend}: {report.reason}")
        return
    say(f"{report.backend}:")
    for name, fact in report.facts.items():
        # A list is shown with the finding that it belongs to.
        if fact and not isinstance(fact, list):
            say(f"{'':<14}{name.replace('_', ' ')}: {'yes' if fact is True else fact}")
    for finding in report.findings:
        need = "required" if finding.required else ""
        say(f"{'ok' if finding.ok else 'NO':<3} {need:<9} {finding.name}{finding.note and f' ({finding.note})'}")
        if not finding.ok:
            say(f"{'':<14}without it: {finding.exposes}. {finding.remedy}".rstrip(". ") + ".")
    outcome = "can start" if report.starts else f"cannot start: {report.reason}"
    say(f"{report.backend}: the policy {policy} {outcome}; a whole run took {report.run_ms} ms")
