"""What the machine itself needs: a bare interpreter's start, and plain Python over the same file. No wall, no wire."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final, TextIO

from benchmarks.measure import Plan, Samples, check_total
from benchmarks.programs import SLICE_CHARS, Text

__all__ = ["Floor"]


class Floor:
    title: Final = "floor: plain Python"

    async def round(self, plan: Plan, text: Text) -> Samples:
        return {
            "start": [_fresh_interpreter()],
            "slices": [_read_slices(text)],
            "lines": [_read_lines(text)],
        }


def _fresh_interpreter() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - started


def _read_slices(text: Text) -> float:
    started = time.perf_counter()
    total = 0
    with _opened(text.path) as file:
        while piece := file.read(SLICE_CHARS):
            total += len(piece)
    seconds = time.perf_counter() - started
    check_total("plain Python", str(total), text.chars)
    return seconds


def _read_lines(text: Text) -> float:
    started = time.perf_counter()
    total = 0
    with _opened(text.path) as file:
        for line in file:
            total += len(line)
    seconds = time.perf_counter() - started
    check_total("plain Python", str(total), text.chars)
    return seconds


def _opened(path: Path) -> TextIO:
    return path.open(encoding="utf-8", newline="")
