"""A run's progress on stderr: one live line on a terminal, an occasional plain line elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from belljar.cli.output import live, tell
from belljar.engine import Progress, Result
from belljar.units import NANOUSD_PER_USD

__all__ = ["progress", "step", "summarise"]

_PLAIN_SECONDS = 2.0
_SEPARATOR = " · "


def step(text: str) -> None:
    """Say what is being done now."""
    print(text, file=sys.stderr)


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Give a function that shows a `Progress`; None when nothing is to be shown."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        # Imported here: it takes a tenth of a second to load, and only a terminal needs it.
        from rich.console import Console

        console = Console(file=live(), highlight=False)
        with console.status("starting") as status:
            yield lambda now: status.update(_line(now))
    else:
        yield _plain()


def summarise(result: Result) -> None:
    """The last line: how the run ended, what it used, and its id in the log."""
    done = Progress(
        turns=result.turns,
        cells=result.cells,
        reads=result.reads,
        read_bytes=result.read_bytes,
        queries=result.queries,
        calls=result.usage.calls,
        cost_nanousd=result.cost_nanousd,
    )
    tell(f"run {result.run}: {result.status}{_SEPARATOR}{_line(done)}")


def _plain() -> Callable[[Progress], None]:
    last: list[float] = [time.monotonic()]
    shown: list[int] = [0]

    def show(now: Progress) -> None:
        due = time.monotonic() - last[0] > _PLAIN_SECONDS
        if due or now.turns != shown[0]:
            last[0], shown[0] = time.monotonic(), now.turns
            print(_line(now), file=sys.stderr)

    return show


def _line(now: Progress) -> str:
    # Without a root model there are no turns.
    turn = [f"turn {now.turns}"] if now.turns else []
    reads = f"{now.reads} reads ({now.read_bytes / 1e6:.1f} MB)"
    cost = f"{now.cost_nanousd / NANOUSD_PER_USD:.4f} USD"
    return _SEPARATOR.join([*turn, f"cell {now.cells}", f"{now.queries} queries", reads, cost])
