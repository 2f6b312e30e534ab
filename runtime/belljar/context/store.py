"""The store of long texts, named by their content.

    documents/<sha256>/   one folder per document (see `document`), complete or absent
    incoming/<random>/    a document that is being written
    sources/<sha256>.json what a file looked like when it was taken in, named by the digest of its path
    lock                  held for the instant in which `incoming` changes hands

How a document comes in. Its folder is written under `incoming`, flushed to disk, and renamed to its digest: one rename,
so that it is there whole or not at all. Two processes that add the same text both write it; the second rename finds the
first one's folder and yields to it.

How a crash is cleaned up. Whoever writes a folder in `incoming` holds an flock on it from before anyone else may look
(creation happens under `lock`) until after the rename. The kernel lets go of it when the writer dies. So the next
`add`, under `lock`, tries each folder: the ones it can lock have no writer. A folder that was renamed between our look
and our lock is no longer at that path, and deletion goes by path: a published document cannot be hit.

How an unchanged file is recognised. By resolved path, device, inode, size, mtime and ctime together. A file system's
clock ticks coarsely, and a write within the same tick as the last one leaves no trace in these; so a file is only
remembered when its last change is older than a tick.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from belljar.context.document import DOCUMENT_FILE, INDEX_FILE, TEXT_FILE, Document, OpenDocument
from belljar.context.intake import Measure, file_blocks, take_in, text_blocks
from belljar.errors import HostFault, InvalidInput

__all__ = ["ContextStore"]

# Ticks of the clocks that file systems stamp with: 10 ms at worst on local ones, 2 s where only whole seconds are kept.
_FINE_TICK_NS = 100_000_000
_WHOLE_SECOND_TICK_NS = 2_000_000_000

_SHA256 = re.compile(r"[0-9a-f]{64}")


class _Source(msgspec.Struct, frozen=True):
    """What tells one state of a file on the host from another."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    sha256: str = ""

    @classmethod
    def of(cls, file: BinaryIO) -> _Source:
        seen = os.fstat(file.fileno())
        return cls(seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)

    def settled(self, now_ns: int) -> bool:
        tick_ns = _FINE_TICK_NS if self.mtime_ns % 1_000_000_000 else _WHOLE_SECOND_TICK_NS
        return max(self.mtime_ns, self.ctime_ns) + tick_ns < now_ns


class ContextStore:
    """Documents under one folder, shared by any number of threads and processes. Touches the disk only when used.

    Raises:
        HostFault: from every method, when the folder itself cannot be read or written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._documents = root / "documents"
        self._incoming = root / "incoming"
        self._sources = root / "sources"

    def add(self, source: Path | str, *, name: str | None = None, now_ns: int) -> Document:
        """Take in a text. The copy is the store's own: later changes of the source do not matter.

        Args:
            source: a Path is a UTF-8 file on this host, chosen by the operator and never by a guest (a byte order
                mark is dropped); a str is the text itself.
            name: what people call it; the file's name, or "text", when absent. When the same text is there already, the
                result carries this name, while `ls` and `open` keep the first one.
            now_ns: nanoseconds since the epoch.

        Raises:
            InvalidInput: context.missing, context.is_directory, context.unreadable, context.empty, context.binary,
                context.encoding.
        """
        with self._faults():
            if isinstance(source, str):
                label = "the text"
                return self._ingest(text_blocks(source, label), label, name or "text", now_ns, bom_dropped=False)
            return self._add_file(source, name or source.name, now_ns)

    def ls(self) -> list[Document]:
        """All documents, the oldest first."""
        with self._faults():
            names = os.listdir(self._documents) if self._documents.exists() else []
            found = [self._load(name) for name in names if _SHA256.fullmatch(name)]
        return sorted((document for document in found if document), key=lambda d: (d.added_ns, d.sha256))

    def open(self, sha256: str) -> OpenDocument:
        """Map a document for reading; the caller closes it.

        Raises:
            InvalidInput: context.bad_hash, context.unknown.
        """
        if not _SHA256.fullmatch(sha256):
            raise InvalidInput(
                "a context is named by 64 lower-case hex digits; `belljar context ls` shows them",
                code="context.bad_hash",
            )
        with self._faults():
            document = self._load(sha256)
            if document is None:
                raise InvalidInput(f"there is no context {sha256}; add it first", code="context.unknown")
            return OpenDocument(self._documents / sha256, document)

    def _add_file(self, path: Path, name: str, now_ns: int) -> Document:
        label = repr(str(path))
        with _opened(path, label) as file:
            source = _Source.of(file)
            memory = self._memory_of(path)
            known = self._recall(memory, source)
            if known is not None:
                return msgspec.structs.replace(known, name=_printable(name))
            document = self._ingest(file_blocks(file, label), label, name, now_ns, bom_dropped=True)
            if _Source.of(file) == source and source.settled(now_ns):
                self._remember(memory, msgspec.structs.replace(source, sha256=document.sha256))
        return document

    def _ingest(self, blocks: Iterable[bytes], label: str, name: str, now_ns: int, *, bom_dropped: bool) -> Document:
        with self._workspace() as folder:
            with _created(folder / TEXT_FILE) as text, _created(folder / INDEX_FILE) as index:
                measure = take_in(blocks, text, index, label, bom_dropped=bom_dropped)
            document = _described(measure, _printable(name), now_ns)
            if document.ascii:
                (folder / INDEX_FILE).unlink()
            with _created(folder / DOCUMENT_FILE) as file:
                file.write(msgspec.json.encode(document))
            _flush_folder(folder)
            return self._publish(folder, document)

    def _publish(self, folder: Path, document: Document) -> Document:
        try:
            os.rename(folder, self._documents / document.sha256)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            first = self._load(document.sha256)
            if first is None:
                raise HostFault(f"the stored context {document.sha256} is damaged; remove its folder") from error
            return msgspec.structs.replace(first, name=document.name)
        _flush_folder(self._documents)
        return document

    @contextlib.contextmanager
    def _workspace(self) -> Iterator[Path]:
        """A folder in `incoming` that is ours until it is renamed away or deleted."""
        with contextlib.ExitStack() as held:
            with self._locked():
                self._sweep()
                folder = self._incoming / secrets.token_hex(16)
                folder.mkdir(mode=0o700)
                held.enter_context(_folder_lock(folder))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        for folder in (self._root, self._documents, self._incoming, self._sources):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _sweep(self) -> None:
        """Delete what dead writers left. Call with `lock` held."""
        for folder in self._incoming.iterdir():
            with contextlib.suppress(FileNotFoundError, BlockingIOError), _folder_lock(folder):
                shutil.rmtree(folder)

    def _load(self, sha256: str) -> Document | None:
        try:
            stored = (self._documents / sha256 / DOCUMENT_FILE).read_bytes()
            return msgspec.json.decode(stored, type=Document)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise HostFault(f"the stored context {sha256} is damaged ({error}); remove its folder") from error

    def _memory_of(self, path: Path) -> Path:
        digest = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
        return self._sources / f"{digest}.json"

    def _recall(self, memory: Path, source: _Source) -> Document | None:
        try:
            kept = msgspec.json.decode(memory.read_bytes(), type=_Source)
        except (FileNotFoundError, msgspec.DecodeError):
            return None  # a memory, not a record: without it the file is read again
        if msgspec.structs.replace(kept, sha256="") != source or not _SHA256.fullmatch(kept.sha256):
            return None
        return self._load(kept.sha256)

    def _remember(self, memory: Path, source: _Source) -> None:
        fresh = memory.with_name(f"{secrets.token_hex(16)}.new")
        try:
            with _created(fresh) as file:
                file.write(msgspec.json.encode(source))
            os.rename(fresh, memory)
        finally:
            fresh.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise HostFault(
                f"the context store at {str(self._root)!r} cannot be used ({error.strerror}); "
                "make room or mend its permissions, or choose another state folder"
            ) from error


def _described(measure: Measure, name: str, now_ns: int) -> Document:
    return Document(
        sha256=measure.sha256,
        name=name,
        chars=measure.chars,
        bytes=measure.bytes,
        ascii=measure.chars == measure.bytes,
        added_ns=now_ns,
    )


def _printable(name: str) -> str:
    """A file name may hold bytes that are no text; as a name for people it must."""
    return name.encode("utf-8", "replace").decode()


@contextlib.contextmanager
def _opened(path: Path, label: str) -> Iterator[BinaryIO]:
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer that may never come.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidInput(f"{label} does not exist; check the path", code="context.missing") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidInput(
            f"{label} cannot be opened ({reason}); make it readable for this user", code="context.unreadable"
        ) from error
    try:
        _refuse_unless_regular(os.fstat(descriptor).st_mode, label)
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def _refuse_unless_regular(mode: int, label: str) -> None:
    if stat.S_ISDIR(mode):
        raise InvalidInput(f"{label} is a directory; give one text file", code="context.is_directory")
    if not stat.S_ISREG(mode):
        raise InvalidInput(
            f"{label} is not a regular file; write what it gives to a file, and add that", code="context.unreadable"
        )


@contextlib.contextmanager
def _created(path: Path) -> Iterator[BinaryIO]:
    """A new file, readable by us alone, and on disk when the block ends well."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(descriptor)


@contextlib.contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's flock. Raises BlockingIOError when another holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
