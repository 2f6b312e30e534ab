"""What cells printed, so that two runs can be compared by it: but for what is never the same again.

That is the id of the run, which an error has that is about a child run, and the address of an object, as
`<object at 0x7f31c0a2b3d0>` has it. And where older versions have an exception of the box in a traceback, they name our
module before it.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, cast

import msgspec

from belljar.audit.export.words import printed
from belljar.audit.trajectory import Absent, Cell, Contents, Output

__all__ = ["comparable", "digest", "digest_of", "said_by"]

_ADDRESS: Final = re.compile(rb"\b0x[0-9a-f]{6,16}\b")
_OUR_MODULE: Final = b"guest.agent.names."


def comparable(said: bytes, run: str) -> bytes:
    """What is the same again of a text that a run printed; `run` may be one below it."""
    return _ADDRESS.sub(b"0x", said.replace(run.partition(".")[0].encode(), b"run").replace(_OUR_MODULE, b""))


def said_by(cell: Cell, contents: Contents | None) -> Output | None:
    """What a cell printed, and what goes with that; None if it is not kept.

    Raises:
        VerificationFailed: what is stored is not what was stored.
        AuditUnavailable: it cannot be read.
    """
    output = printed(cell)
    said = None if output is None else output.read(contents)
    return None if said is None or isinstance(said, Absent) else cast("Output", said)


def digest(cell: Cell, contents: Contents | None) -> str | None:
    """The SHA-256 of what is the same again of a cell's output; None if that is not kept. Raises as `said_by`."""
    said = said_by(cell, contents)
    return None if said is None else digest_of(said, cell.code.run)


def digest_of(said: Output, run: str) -> str:
    """The SHA-256 of what is the same again of what a cell of this run printed."""
    texts = (said.stdout, said.stderr, said.traceback)
    return hashlib.sha256(comparable(msgspec.json.encode(texts), run)).hexdigest()
