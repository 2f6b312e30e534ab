"""What a source looked like when it was taken in, so that an unchanged one is not read again.

A file is the same if its resolved path, device, inode, size, mtime and ctime are, and it is read in the same way. A
file system's clock ticks coarsely, and a write within the same tick as the last one leaves no trace in these; so a
source is only remembered if its last change is older than a tick. For a file this costs one look; for a folder one
look at each file in it.

A memory is a convenience, not a record: without it the source is read again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from belljar.context.encodings import Errors
from belljar.context.folder import Entry, LeftOut, Tree
from belljar.durable import replaced

__all__ = ["Memories", "Memory", "Sight", "sight_of"]

# Ticks of the clocks that file systems stamp with: 10 ms at worst on local ones, 2 s where only whole seconds are kept.
_FINE_TICK_NS = 100_000_000
_WHOLE_SECOND_TICK_NS = 2_000_000_000


class Sight(msgspec.Struct, frozen=True):
    """One look at a source.

    Attributes:
        place: hex digest of where it is and how it is read.
        state: hex digest of all that tells one state of it from another, the place included.
        settled_ns: any change from then on would show.
    """

    place: str
    state: str
    settled_ns: int


class Memory(msgspec.Struct, frozen=True):
    """A source that was taken in: which document it became."""

    state: str
    sha256: str
    left_out: list[LeftOut]


class Memories:
    """The folder of memories, a file per source."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recall(self, sight: Sight) -> Memory | None:
        """What the source became, if it is in the state in which it was taken in."""
        try:
            memory = msgspec.json.decode(self._file(sight).read_bytes(), type=Memory)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return memory if memory.state == sight.state else None

    def keep(self, sight: Sight, sha256: str, left_out: list[LeftOut]) -> None:
        """Remember a source. Call with the store's `lock` held: without it, a half-written file is swept."""
        with replaced(self._file(sight)) as file:
            file.write(msgspec.json.encode(Memory(sight.state, sha256, left_out)))

    def forget(self, sha256s: set[str]) -> None:
        """Delete the memories of documents that are gone."""
        for file in self._folder.glob("*.json"):
            try:
                memory = msgspec.json.decode(file.read_bytes(), type=Memory)
            except (FileNotFoundError, msgspec.DecodeError):
                continue
            if memory.sha256 in sha256s:
                file.unlink(missing_ok=True)

    def _file(self, sight: Sight) -> Path:
        return self._folder / f"{sight.place}.json"


def sight_of(
    path: Path, tree: Tree | os.stat_result, encoding: str | None, errors: Errors, json_lines: bool = False
) -> Sight:
    """One look at a file (given what `fstat` says) or at a folder."""
    entries = tree.entries if isinstance(tree, Tree) else [Entry.of("", tree)]
    left_out = tree.left_out if isinstance(tree, Tree) else []
    read_as = (os.fsencode(os.path.realpath(path)), encoding, errors, json_lines)
    place = hashlib.sha256(msgspec.json.encode(read_as)).hexdigest()
    state = hashlib.sha256(msgspec.json.encode((place, entries, left_out))).hexdigest()
    return Sight(place, state, max(map(_settled_ns, entries), default=0))


def _settled_ns(entry: Entry) -> int:
    tick_ns = _FINE_TICK_NS if entry.mtime_ns % 1_000_000_000 else _WHOLE_SECOND_TICK_NS
    return max(entry.mtime_ns, entry.ctime_ns) + tick_ns
