"""How large the log of one run is, beside what was said in it, and beside the reference RLM library's log of the same.

The library's own types read our export, and its lines are written as its logger writes them: what only we put there is
not counted. Without the library (`make rlms`) our export is counted as it is.
"""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

from belljar.audit import records_below
from belljar.audit.content import open_contents
from belljar.audit.export.rlm import rlm
from belljar.audit.trajectory import trajectory
from belljar.keys import Keys

__all__ = ["Sizes", "sizes_of"]

_RLMS: Final = Path(sys.prefix, "rlms", "rlm", "core", "types.py")
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
    types = _types()
    written = lines if types is None else list(_as_theirs(types, lines))
    return Sizes(
        records=sum(1 for _ in records_below(log, run)),
        contents=sum(map(len, texts)),
        compressed=sum(len(zlib.compress(text)) for text in texts),
        peer="our export as RLM" if types is None else "rlms 0.1.3, its JSONL of the same run",
        lines=sum(map(len, written)),
    )


def _types() -> ModuleType | None:
    """The library's types, without the library: that would load a client of each provider."""
    if not _RLMS.is_file():
        return None
    spec = importlib.util.spec_from_file_location("benchmarks_rlms_types", _RLMS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def _as_theirs(types: ModuleType, lines: Iterable[bytes]) -> Iterator[bytes]:
    for line in map(json.loads, lines):
        stamps = {key: line[key] for key in _STAMPS if key in line}
        fields = {key: value for key, value in line.items() if key not in (*_STAMPS, _OURS)}
        made = types.RLMMetadata(**fields) if line["type"] == "metadata" else _iteration(types, fields)
        yield json.dumps({**stamps, **made.to_dict()}).encode() + b"\n"


def _iteration(types: ModuleType, fields: dict[str, Any]) -> Any:
    blocks = []
    for block in fields.pop("code_blocks"):
        result = dict(block["result"])
        result["rlm_calls"] = [types.RLMChatCompletion.from_dict(call) for call in result["rlm_calls"]]
        blocks.append(types.CodeBlock(block["code"], types.REPLResult(**result)))
    return types.RLMIteration(code_blocks=blocks, **fields)
