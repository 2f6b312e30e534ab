"""Telling one process from a later one with the same id, for whoever cleans up after the dead."""

from __future__ import annotations

from pathlib import Path

__all__ = ["identity", "is_alive"]


def identity(pid: int) -> str:
    """`PID-START`, the start in clock ticks since the machine's, which no setting of the clock changes.

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
