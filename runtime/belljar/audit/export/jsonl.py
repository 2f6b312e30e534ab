"""The records themselves, a line each, byte for byte as they are stored.

Each line's SHA-256 is what the next record of the log names in `prev`, so a line can be held against a receipt. What a
record names is not in it: that is what the other formats are for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from belljar.audit.read import Record

__all__ = ["jsonl"]


def jsonl(records: Iterable[Record]) -> Iterator[bytes]:
    """A line for each record."""
    return (record.body + b"\n" for record in records)
