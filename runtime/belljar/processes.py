"""Tells a process from a later one with the same id, for cleaning up after dead processes."""

from __future__ import annotations

from pathlib import Path

__all__ = ["identity", "is_alive"]


def identity(pid: int) -> str:
    """`PID-START`: the start is in clock ticks since boot, so setting the clock does not change it.

    Raises:
        OSError: there is no such process.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return f"{pid}-{fields[19]}"


def is_alive(known: str) -> bool:
    """Whether the process with this identity still lives."""
    try:
        return identity(int(known.partition("-")[0])) == known
    except (OSError, ValueError):
        return False
