"""What the exports in JSON share: a document that every reader takes, and texts that are not there."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from belljar.audit.trajectory import Absent, Contents, Text

__all__ = ["INT_EXACT_MAX", "document", "exact", "iso", "said", "usd"]

# Beyond it, readers whose numbers are doubles lose digits.
INT_EXACT_MAX = 2**53 - 1
_SURROGATE = re.compile("[\ud800-\udfff]")


def document(value: Any) -> bytes:
    """One line of JSON in UTF-8. A lone surrogate, which many readers refuse, is written out as six characters."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _SURROGATE.sub(lambda found: f"\\\\u{ord(found[0]):04x}", text).encode() + b"\n"


def exact(number: int) -> int | str:
    """A number that no reader rounds: one that is too large for a double is a string."""
    return number if abs(number) <= INT_EXACT_MAX else str(number)


def usd(nanousd: int) -> float:
    """For formats that want a float; the exact amount stands beside it."""
    return nanousd / 10**9


def iso(time_ns: int | None) -> str | None:
    """`2026-11-29T06:03:42.000001Z`; finer than that no format is."""
    if time_ns is None:
        return None
    return f"{datetime.fromtimestamp(time_ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9 // 1000:06d}Z"


def said(text: Text | None, contents: Contents | None) -> str:
    """A text, or in brackets why it is not there."""
    if text is None:
        return ""
    found = text.words(contents)
    return f"[not here: {found.why}]" if isinstance(found, Absent) else found
