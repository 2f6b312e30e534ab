"""What RLM programs import, and what the restricted language needs, loaded ahead of time.

The zygote does this once for all its boxes, a container of the warm pool while nobody waits for it.
"""

from __future__ import annotations

import importlib

from guest.language import restricted

__all__ = ["preload"]

_MODULES = (
    "ast",
    "base64",
    "bisect",
    "calendar",
    "collections",
    "concurrent.futures",
    "concurrent.futures.thread",
    "copy",
    "csv",
    "dataclasses",
    "datetime",
    "decimal",
    "difflib",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "html",
    "io",
    "itertools",
    "json",
    "math",
    "operator",
    "queue",
    "random",
    "re",
    "statistics",
    "string",
    "struct",
    "textwrap",
    "threading",
    "time",
    "traceback",
    "types",
    "typing",
    "unicodedata",
    "uuid",
    "zlib",
    "encodings.idna",
    "_strptime",
)


def preload() -> None:
    for name in _MODULES:
        importlib.import_module(name)
    restricted.preload()
