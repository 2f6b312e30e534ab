"""How far a run is, on stderr: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console

from belljar.engine import Progress
from belljar.units import NANOUSD_PER_USD

__all__ = ["progress", "step"]

_PLAIN_SECONDS = 2.0
_console = Console(stderr=True, highlight=False)


def step(text: str) -> None:
    """Say what is being done now."""
    _console.print(text, style="dim", markup=False)


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Give a function that shows a `Progress`; None when nothing is to be shown."""
    if quiet:
        yield None
        return
    if not _console.is_terminal:
        yield _plain()
        return
    with _console.status("starting") as status:
        yield lambda now: status.update(_line(now))


def _plain() -> Callable[[Progress], None]:
    last: list[float] = [0.0]
    shown: list[int] = [-1]

    def show(now: Progress) -> None:
        due = time.monotonic() - last[0] > _PLAIN_SECONDS
        if due or now.turns != shown[0]:
            last[0], shown[0] = time.monotonic(), now.turns
            _console.print(_line(now), markup=False)

    return show


def _line(now: Progress) -> str:
    return (
        f"turn {now.turns} · cell {now.cells} · {now.queries} queries · {now.reads} reads "
        f"({now.read_bytes / 1e6:.1f} MB) · {now.cost_nanousd / NANOUSD_PER_USD:.4f} USD"
    )
