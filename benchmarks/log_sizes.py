"""How large the log of one run is, beside what was said in it, and beside the reference RLM library's log of the same.

The library's own types read our export, and its lines are written as its logger writes them: what only we put there is
not counted. Without the library (`make rlms`) our export is counted as it is.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

from belljar.audit import records_below
from belljar.audit.content import open_contents
from belljar.audit.export.rlm import rlm
from belljar.audit.trajectory import trajectory
from belljar.keys import Keys
from tests.rlms import iteration_of, types_of_rlms

__all__ = ["Sizes", "sizes_of"]

_NAMES: Final = "SELECT DISTINCT digest FROM contents WHERE run = ?"
# Of a line of ours: what the library's logger adds by itself, and what is not the library's at all.
_STAMPS: Final = ("type", "iteration", "timestamp")
_OURS: Final = "belljar"


class Sizes(NamedTuple):
    """How many records, and bytes of the contents, each once, and of `lines`, which `peer` wrote.

    `compressed`: each content by itself, by zlib at its usual level.
    """

    records: int
    contents: int
    compressed: int
    peer: str
    lines: int


def sizes_of(log: Path, run: str, keys: Keys) -> Sizes:
    """Raises what reading the log and its contents raises."""
    with closing(sqlite3.connect(log)) as db:
        names = [digest.hex() for (digest,) in db.execute(_NAMES, (run,))]
    with open_contents(log, keys) as contents:
        texts = [contents.get(run, name) for name in names]
        grown = trajectory(records_below(log, run))
        assert grown is not None
        lines = list(rlm(grown, contents))
    types = types_of_rlms()
    written = lines if types is None else list(_as_theirs(types, lines))
    return Sizes(
        records=sum(1 for _ in records_below(log, run)),
        contents=sum(map(len, texts)),
        compressed=sum(len(zlib.compress(text)) for text in texts),
        peer="our export as RLM" if types is None else "rlms 0.1.3, its JSONL of the same run",
        lines=sum(map(len, written)),
    )


def _as_theirs(types: ModuleType, lines: Iterable[bytes]) -> Iterator[bytes]:
    for line in map(json.loads, lines):
        stamps = {key: line[key] for key in _STAMPS if key in line}
        fields = {key: value for key, value in line.items() if key not in (*_STAMPS, _OURS)}
        made = types.RLMMetadata(**fields) if line["type"] == "metadata" else iteration_of(types, fields)
        yield json.dumps({**stamps, **made.to_dict()}).encode() + b"\n"
