"""`belljar audit verify|receipt|checkpoint|rotate-key`: what is signed of the log, and whether it is still that."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from belljar.audit import Checkpoints, Receipt, Report, signing, verify
from belljar.audit.witness import Witness, read_witness
from belljar.cli import options
from belljar.cli.logged import run_id
from belljar.cli.loop import run_async
from belljar.cli.output import counted, emit, printable, say, tell
from belljar.errors import BelljarError, InvalidInput, VerificationFailed
from belljar.keys import Keys

__all__ = ["checkpoint", "receipt", "rotate_key", "sign", "unsound", "verify_"]

_T = TypeVar("_T")
_CLOSED = "the log is as it was, signed or not: `belljar audit checkpoint` tells"
_NOTHING_READ = "the log was not looked at"
_PROBLEMS_SHOWN_MAX = 20
_FILE_BYTES_MAX = 2**26
_file = click.Path(path_type=Path, dir_okay=False)


@click.command("verify")
@click.option(
    "--receipt",
    "receipts",
    type=_file,
    multiple=True,
    metavar="FILE",
    help="The receipt of a run, or its result as --json printed it: the log must agree.",
)
@click.option(
    "--from",
    "notes",
    type=_file,
    multiple=True,
    metavar="FILE",
    help="A checkpoint that was kept elsewhere, or what `audit checkpoint` printed, likewise.",
)
@click.option(
    "--witness",
    "witnesses",
    multiple=True,
    metavar="FILE|URL",
    help="A witness: every checkpoint that it has, likewise.",
)
@click.option(
    "--key",
    "trusted",
    multiple=True,
    metavar="KEY",
    help="A public key that may have signed the log, as `audit checkpoint` prints it, besides the host's own.",
)
@options.state
@options.as_json
def verify_(
    receipts: tuple[Path, ...],
    notes: tuple[Path, ...],
    witnesses: tuple[str, ...],
    trusted: tuple[str, ...],
    state: Path | str | None,
    as_json: bool,
) -> None:
    """Check the whole log: every hash, the order, that every request has its outcome, and what was signed of it.

    If it is not what it was, the first line says what was done to it, such as `cut tail`. No network is used,
    except to ask a witness at a URL.
    """
    # Before the log is opened: what a witness has was in the log when it was pushed.
    found = [run_async(read_witness(place), closed=_NOTHING_READ) for place in witnesses]
    for one in found:
        if one.unreadable:
            tell(
                f"{counted(one.unreadable, 'line')} of the witness {printable(one.shown)} cannot be read: what a "
                "checkpoint there said of the log was not looked at; look who changed it, or whether its disk was full"
            )
    report = verify(
        options.place(state).state.journal,
        keys=Keys.at(os.environ),
        trusted=trusted,
        receipts=[Receipt.read(_read(path)) for path in receipts],
        notes=[_note(_read(path)) for path in notes],
        witnessed=[note for one in found for note in one.notes],
    )
    if as_json:
        unreadable = {"witness_lines_unreadable": sum(one.unreadable for one in found)} if found else {}
        emit({"ok": report.ok, "report": report, **unreadable})
    else:
        _print(report)
    if not report.ok:
        error = unsound(report)
        if as_json:
            click.get_current_context().exit(error.exit_code)
        raise error


def _note(data: bytes) -> str:
    """A checkpoint as it was signed, or as `audit checkpoint` prints it: with the key behind it, or as JSON."""
    text = data.decode("utf-8", "replace")
    if text.startswith("{"):
        with contextlib.suppress(msgspec.DecodeError, UnicodeError):
            return msgspec.json.decode(text, type=_Printed, strict=True).checkpoint
    return text.partition("\nkey ")[0]


class _Printed(msgspec.Struct, frozen=True):
    checkpoint: str


def _print(report: Report) -> None:
    for finding in report.tampering[:1]:
        say(f"{finding.kind}: {printable(finding.what)}")
    for problem in report.problems[:_PROBLEMS_SHOWN_MAX]:
        say(printable(problem))
    say(f"{counted(report.records, 'record')} of {counted(report.runs, 'run')}, head {report.head}")
    if report.signed:
        say(f"the first {counted(report.signed, 'record')} are signed")
    if report.unfinished:
        say(f"{counted(len(report.unfinished), 'action')} without an outcome, in runs that have not ended")


def unsound(report: Report) -> VerificationFailed:
    """What a log that does not verify is told as."""
    kind = f"{report.tampering[0].kind}; " if report.tampering else ""
    return VerificationFailed(
        f"the log does not verify: {kind}{counted(len(report.problems), 'problem')}, the first: {report.problems[0]}"
    )


@click.command()
@click.argument("run")
@options.state
@options.always_json
def receipt(run: str, state: Path | str | None) -> None:
    """Print the receipt of RUN (an id, or `last`), which has ended, as JSON. The log is signed first."""
    run = run_id(options.place(state).state.journal, run)
    emit({"receipt": _with(state, lambda checkpoints: checkpoints.receipt_of(run))})


@click.command()
@click.option(
    "--accept-restored",
    is_flag=True,
    help="Sign the log though it is not the one that was signed: a backup was put back, say. This is logged.",
)
@options.state
@options.as_json
def checkpoint(accept_restored: bool, state: Path | str | None, as_json: bool) -> None:
    """Sign the log as it is now, and print the checkpoint and the public key that verifies it.

    Exits with 9 if the log is not the one that was signed before.
    """

    async def go(checkpoints: Checkpoints) -> tuple[str, str]:
        made = await (checkpoints.accept(options.user()) if accept_restored else checkpoints.make())
        if made is None:
            raise InvalidInput("the log has no record yet: there is nothing to sign", code="audit.empty")
        return made.note, await checkpoints.key()

    note, key = _with(state, go)
    if accept_restored and (witness := options.place(state).witness) is not None:
        tell(
            f"if the witness {printable(witness.shown)} has checkpoints of the log as it was, it will say so for ever: "
            "set them aside and begin a new one"
        )
    if as_json:
        emit({"checkpoint": note, "key": key})
    else:
        say(f"{note}\nkey {key}")


@click.command("rotate-key")
@options.state
@options.as_json
def rotate_key(state: Path | str | None, as_json: bool) -> None:
    """Let a new key sign the log from now on, and print its public key.

    The log has the change, signed by the old key and the new one, so what the old one signed still verifies. Of the old
    one only the public part is kept.
    """
    key = _with(state, lambda checkpoints: checkpoints.rotate(options.user()))
    if as_json:
        emit({"key": key})
    else:
        say(f"key {key}")


def sign(state: Path | str | None) -> None:
    """Sign what a command has just written. It is done: that the log cannot be signed is told, and no error of it."""
    try:
        _with(state, lambda checkpoints: checkpoints.make())
    except BelljarError as error:
        tell(printable(str(error), but=""))


def _with(state: Path | str | None, work: Callable[[Checkpoints], Awaitable[_T]]) -> _T:
    found = options.place(state)
    witness = None if found.witness is None else Witness(found.witness, found.state.witness)

    async def go() -> _T:
        async with signing(found.state.journal, Keys.at(os.environ), witness) as checkpoints:
            return await work(checkpoints)

    return run_async(go(), closed=_CLOSED)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as opened:
            return opened.read(_FILE_BYTES_MAX)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read ({error.strerror}); name another file", code="audit.file") from error
