"""What the service says to its operator, a line of JSON each, on stderr.

    {"time":"2026-11-23T12:34:56.789Z","level":"warning","logger":"belljar.service","message":"..."}

The line of a request (`service/guard.py`) has in `http` also its id, the one that the answer names, and with it the
route, the status, how long it took, from where it came and who asked.

Nothing in it was said by a caller, a program or a model: that is what the log of runs is for, where it is bounded,
encrypted and can be erased. So of our own loggers the whole message is written, and our messages hold no contents.
What other packages log is written as they wrote it in their source, without the values. Of an exception there is its
type and where it came from, and never its text.
"""

from __future__ import annotations

import logging
import traceback
from datetime import UTC, datetime
from typing import Final, TextIO

import msgspec

__all__ = ["JsonLines", "log_to"]

_MESSAGE_CHARS_MAX: Final = 2000
_FRAMES_MAX: Final = 8
# Whose messages hold no contents.
_OURS: Final = ("belljar", "uvicorn.error")
# Whose records tell of a request.
_REQUESTS: Final = "belljar.service.requests"


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record)[:_MESSAGE_CHARS_MAX],
        }
        if record.name == _REQUESTS and (http := getattr(record, "http", None)) is not None:
            line["http"] = http
        if record.exc_info is not None and record.exc_info[1] is not None:
            line["error"] = type(record.exc_info[1]).__name__
            frames = traceback.extract_tb(record.exc_info[2])[-_FRAMES_MAX:]
            line["at"] = [f"{frame.name}:{frame.lineno}" for frame in frames]
        return msgspec.json.encode(line).decode()


def log_to(stream: TextIO) -> logging.Handler:
    """Write all logging to `stream` from here on, in lines of JSON, and nowhere else. Returns what does."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("belljar").setLevel(logging.INFO)
    return handler


def _message(record: logging.LogRecord) -> str:
    ours = any(record.name == name or record.name.startswith(f"{name}.") for name in _OURS)
    said = record.getMessage() if ours else str(record.msg)
    return said.encode("utf-8", "backslashreplace").decode()
