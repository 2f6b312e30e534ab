"""A tenant's contexts, named by their content.

    documents/<sha256>/   one folder per document (see `document`), complete or absent: what somebody registered
    lent/<sha256>/        the same, for what runs brought along themselves
    incoming/<random>/    a document that is being written, or deleted (see `incoming`)
    incoming/kept-<key>/  a large file that is being taken in, by the state of that file
    sources/              what sources looked like when they were taken in (see `sources`)
    tenant                whose store it is
    format                which format the store has (see `formats`)
    lock                  held for the instant in which `incoming` changes hands
    ../<root tenant>.lock held for the instant in which a document gets its final name (see `room`)

How a document comes in. Its folder is written under `incoming`, flushed to disk, and renamed to its digest: one rename,
so that it is there whole or not at all. Two processes that add the same text both write it; the second rename finds the
first one's folder and yields to it. `incoming` tells what a crash leaves, and how the next attempt continues.

How a document goes. A run that has it open holds a shared flock on its folder. `rm` and `gc` take the exclusive lock,
or leave the document alone; with the lock they rename the folder into `incoming`, and delete it there. Opening a
document takes the lock first, and then checks that the folder is still in its place: from then on it stays there.

What runs bring along. A text that nobody registered belongs to the runs that have it, and goes with the last of them:
closing its `Loan` takes the exclusive lock and removes it, or leaves that to whoever still holds it. What a killed host
leaves has no lock on it; `sweep_lent` at the next start removes it, before anything is lent. So it is never flushed to
disk: after a power cut, what of it is there and how much of that does not matter. `find` and `ls` do not know it.

What a name means. A name is kept in the folder of the document that was added under it. If several have the same name,
it means the one that was added under it last; when that one is removed, the one before.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import msgspec

from belljar.context.document import DOCUMENT_FILE, INDEX_FILE, NAMES_FOLDER, Document, OpenDocument
from belljar.context.encodings import Errors
from belljar.context.files import folder_lock, opened, refuse_unless_regular, same_folder
from belljar.context.folder import LeftOut, Tree, take_tree, walk
from belljar.context.formats import DOCUMENTS, LENT, format_of, in_latest_format
from belljar.context.incoming import KEPT_NS, TENANT_FILE, Incoming, key_of
from belljar.context.intake import (
    CHECKPOINT_FILE,
    Draft,
    Meter,
    OnProgress,
    Place,
    file_texts,
    stream_texts,
    take_file,
    take_text,
    take_texts,
)
from belljar.context.items import take_dict, take_json_lines, take_list
from belljar.context.names import drop_name, name_in, names_in, put_name
from belljar.context.room import LimitsOf, Room, folder_bytes
from belljar.context.sources import Memories, Sight, sight_of
from belljar.durable import flush
from belljar.errors import HostFault, InvalidInput, Refusal
from belljar.identity import DEFAULT_TENANT, Tenant

__all__ = [
    "ContextStore",
    "ContextStores",
    "FileSource",
    "Loan",
    "OnLeftOut",
    "Source",
    "Swept",
]

# A Path is a file or a folder on this host, an open binary file is read to its end; anything else is the value itself.
Source: TypeAlias = "Path | BinaryIO | str | Sequence[object] | Mapping[str, object]"
OnLeftOut = Callable[[LeftOut], None]


class FileSource(msgspec.Struct, frozen=True):
    """A source that is not read as plain UTF-8; the fields are as in `ContextStore.add`."""

    source: Path | BinaryIO
    encoding: str | None = None
    errors: Errors = "strict"
    json_lines: bool = False


_Take = Callable[[Place], Draft]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{12,63}")
_TENANT_DIGITS = 32
# An attempt fails only if somebody removes the same document just then.
_ATTEMPTS = 8


class Swept(msgspec.Struct, frozen=True):
    """What `gc` has done: removed documents, and how many were old enough but in use."""

    removed: list[Document]
    in_use: int


class Loan:
    """A document for as long as somebody needs it. Close it, or use it as a context manager."""

    def __init__(self, document: Document, hold: int, of_runs: ContextStore | None) -> None:
        self.document = document
        self._hold = hold
        self._of_runs = of_runs

    def close(self) -> None:
        """Release the document; one that is only lent is removed if nobody else has it.

        Raises:
            HostFault: it could not be removed. The next start tries again.
        """
        os.close(self._hold)
        if self._of_runs is not None:
            self._of_runs.discard(self.document.sha256)

    def __enter__(self) -> Loan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ContextStores:
    """The stores of all tenants below one folder. Nothing is shared between two of them, not even equal bytes.

    Args:
        limits: looks up how many bytes each level of a tenant may have here, of those that have a limit; without it
            there are no limits.
    """

    def __init__(self, root: Path, limits: LimitsOf | None = None) -> None:
        self._root = root
        self._limits = limits

    def of(self, tenant: Tenant = DEFAULT_TENANT) -> ContextStore:
        """A tenant's store. Touches no disk."""
        room = None
        if self._limits is not None:
            lock = self._root / f"{_tenant_folder(tenant.levels[0])}.lock"
            room = Room(tenant, lock, self._limits, self.sizes)
        return ContextStore(self._root / _tenant_folder(tenant), tenant=tenant, room=room)

    def sizes(self, root: Tenant | None = None) -> dict[Tenant, int]:
        """How many bytes of contexts each tenant has, without those below it: of all, or of those in one tree.

        Counted is what a content takes up on the disk, with the marks that find a place in it; not its names.

        Raises:
            HostFault: a folder cannot be read.
        """
        found = {tenant: self.of(tenant) for tenant in self.tenants() if root in (None, tenant.levels[0])}
        return {tenant: store.size() for tenant, store in found.items()}

    def tenants(self) -> list[Tenant]:
        """All tenants that have a store.

        Raises:
            HostFault: the folder cannot be read.
        """
        with _faults(self._root):
            signed = [(file.parent.name, file.read_bytes()) for file in self._root.glob(f"*/{TENANT_FILE}")]
        # A damaged file has somebody else's name, or none.
        found = [(folder, _tenant_of(name)) for folder, name in signed]
        return sorted(tenant for folder, tenant in found if tenant is not None and folder == _tenant_folder(tenant))

    def sweep_lent(self) -> None:
        """Remove what dead hosts left of the texts of their runs.

        Raises:
            HostFault: a folder cannot be read or written.
        """
        with _faults(self._root):
            left = {found.parents[1].name for found in self._root.glob(f"*/{LENT}/*")}
        # Nearly always there is nothing, and then no tenant need be looked up.
        for tenant in self.tenants() if left else ():
            store = self.of(tenant)
            if store.folder in left:
                store.sweep_lent()


class ContextStore:
    """Documents under one folder, shared by any number of threads and processes. Touches the disk only when used.

    Raises:
        HostFault: from every method, when the folder itself cannot be read or written, or has a newer format.
    """

    def __init__(
        self, root: Path, *, tenant: Tenant = DEFAULT_TENANT, lent: bool = False, room: Room | None = None
    ) -> None:
        self.tenant = tenant
        self._room = room
        self._root = root
        self._documents = root / (LENT if lent else DOCUMENTS)
        self._incoming = Incoming(root, tenant)
        self._sources = root / "sources"
        self._memories = Memories(self._sources)
        # Whether it is for what runs brought along, which has no names and is not remembered.
        self._lent = lent
        # The other half, for what runs brought along.
        self._of_runs = None if lent else ContextStore(root, tenant=tenant, lent=True, room=room)

    @contextlib.contextmanager
    def _access(self) -> Iterator[None]:
        with _faults(self._root), in_latest_format(self._root):
            yield

    def format(self) -> int:
        """The number of the format that it has now; nothing is migrated."""
        with _faults(self._root):
            return format_of(self._root)

    def migrate(self) -> None:
        """Bring it to the latest format, as its first use would."""
        with self._access():
            pass

    @property
    def folder(self) -> str:
        """The name of its folder, which no tenant chose."""
        return self._root.name

    def size(self) -> int:
        """How many bytes its contexts take up, those that runs brought along included."""
        with _faults(self._root):
            lent = self._of_runs.size() if self._of_runs is not None else 0
            return lent + sum(self._sizes())

    def add(
        self,
        source: Source | FileSource,
        *,
        name: str | None = None,
        encoding: str | None = None,
        errors: Errors = "strict",
        json_lines: bool = False,
        now_ns: int,
        on_progress: OnProgress | None = None,
        on_left_out: OnLeftOut | None = None,
    ) -> Document:
        """Take in a context. The copy is the store's own: later changes of the source do not matter.

        An unchanged file is not read a second time (one look at it), nor an unchanged folder (one look at each file).
        An `add` of a file that was interrupted, even by a kill, continues where it was.

        Args:
            source: a Path is a file or a folder on this host, chosen by the operator and never by a guest: a file
                becomes a text, a folder a dict from relative path to text. An open binary file is read to its end. A
                str is the text itself; a list, or a dict with keys of type str, is one whose items are JSON values.
                Gzip is unpacked. A `FileSource` says itself how it is read.
            name: what people call it; by default the last part of a Path. If the same content is there already, the
                result carries this name, while `ls` keeps the first one; `find` knows both.
            encoding: of the file or files; by default UTF-8, or what the byte order mark says.
            errors: what to do about bytes that are not text: `strict` refuses them, `replace` makes each U+FFFD, `skip`
                leaves out such files of a folder, and is `strict` for anything else.
            json_lines: the file is a list: each line is an item, as JSON.
            now_ns: nanoseconds since the epoch.
            on_progress: called with (done, total), at most 20 times a second, in bytes of the source (characters of a
                str, items of a list or dict). What it raises ends the work.
            on_left_out: called with what of a folder is not in the context, and why.

        Raises:
            InvalidInput: context.missing, context.unreadable, context.empty, context.binary, context.encoding,
                context.not_json, context.too_long.
            QuotaExceeded: context.stored: a level of the tenant may not have that much more. Nothing was added.
        """
        how = (
            source if isinstance(source, FileSource) else FileSource(cast("Path", source), encoding, errors, json_lines)
        )
        reading = _Reading(how.encoding, how.errors, how.json_lines, now_ns, on_progress, on_left_out)
        return self._add(how.source, name, reading)

    def lend(
        self,
        source: Source | FileSource,
        *,
        now_ns: int,
        on_left_out: OnLeftOut | None = None,
    ) -> Loan:
        """Take in a context for one run, which `open` then finds: it goes when its last `Loan` is closed.

        A file or folder that was registered and has not changed since is not copied.

        Raises:
            InvalidInput, QuotaExceeded: as from `add`.
        """
        assert self._of_runs is not None, "a run borrows from the store itself"
        how = source if isinstance(source, FileSource) else FileSource(cast("Path", source))
        reading = _Reading(how.encoding, how.errors, how.json_lines, now_ns, None, on_left_out)
        given: Source = how.source
        for _ in range(_ATTEMPTS):
            with self._access():
                known = self._registered(given, reading) if isinstance(given, Path) else None
            store = self if known is not None else self._of_runs
            document = known or store._add(given, None, reading)
            with self._access():
                hold = store._hold(document.sha256)
            if hold is not None:  # else it was removed just now, with the last run that had it
                return Loan(document, hold, None if store is self else store)
            if not isinstance(given, Path | str | list | tuple | dict):
                break  # a pipe can be read only once
        raise HostFault(f"the context {document.sha256} was removed at the end of another run; give it again")

    def discard(self, sha256: str) -> None:
        """Remove a document unless somebody has it open."""
        with self._access():
            self._remove(sha256)

    def sweep_lent(self) -> None:
        """Remove what dead hosts left of the texts of their runs."""
        assert self._of_runs is not None, "only a whole store is swept"
        with self._access():
            for sha256 in self._of_runs._sha256s():
                self._of_runs._remove(sha256)

    def ls(self) -> list[Document]:
        """All documents, the oldest first."""
        with self._access():
            found = [self._load(sha256) for sha256 in self._sha256s()]
        return sorted((document for document in found if document), key=lambda d: (d.added_ns, d.sha256))

    def names(self, sha256: str) -> list[str]:
        """All names of a document, the oldest first."""
        with self._access():
            folder = self._documents / sha256 / NAMES_FOLDER
            return [name.name for name in sorted(names_in(folder), key=lambda name: (name.added_ns, name.name))]

    def used_ns(self, sha256: str) -> int:
        """When a document was last opened or added, nanoseconds since the epoch.

        Raises:
            InvalidInput: context.unknown.
        """
        with self._access():
            used_ns = self._used_ns(sha256)
        if used_ns is None:
            raise _unknown(sha256)
        return used_ns

    def find(self, ref: str) -> Document:
        """The document that `ref` means: `sha256:HEX`, all or at least 12 digits of its digest, or a name.

        The result carries the name that was asked for. All digits mean a digest; otherwise a name goes before a part of
        a digest.

        Raises:
            InvalidInput: context.unknown; context.ambiguous: several digests begin so.
        """
        with self._access():
            digits = ref.removeprefix("sha256:")
            document = self._load(digits) if _SHA256.fullmatch(digits) else None
            if document is None and digits == ref:
                document = self._named(_printable(ref))
            if document is None and _PREFIX.fullmatch(digits):
                document = self._beginning(digits)
            if document is None:
                raise _unknown(ref)
            return document

    def open(self, sha256: str, *, now_ns: int | None = None) -> OpenDocument:
        """Map a document for reading; the caller closes it. Until then, or the caller's death, it is not removed.

        Args:
            now_ns: the time of this use; by default the clock's.

        Raises:
            InvalidInput: context.bad_hash, context.unknown.
        """
        if not _SHA256.fullmatch(sha256):
            raise InvalidInput(
                "a context is named by 64 lower-case hex digits; list the contexts to find it",
                code="context.bad_hash",
            )
        with self._access(), contextlib.ExitStack() as held:
            hold = self._hold(sha256)
            if hold is None and self._of_runs is not None:
                return self._of_runs.open(sha256, now_ns=now_ns)
            document = None
            if hold is not None:
                held.callback(os.close, hold)
                document = self._load(sha256)
            if document is None:
                raise _unknown(sha256)
            self._touch(sha256, time.time_ns() if now_ns is None else now_ns)
            held.pop_all()
            return OpenDocument(self._documents / sha256, document, hold=hold)

    def rm(self, ref: str) -> Document:
        """Remove what `ref` means, as `find` takes it: a document by its digest, with all its names; or a name, and
        with its last name the document.

        Raises:
            InvalidInput: context.unknown, context.ambiguous.
            Refusal: context.in_use.
        """
        document = self.find(ref)
        with self._access():
            name = document.name if document.name == _printable(ref) and self._is_called(document, ref) else None
            if not self._remove(document.sha256, name=name):
                raise Refusal(
                    f"the context {document.name!r} ({document.sha256[:12]}) is in use by a run; wait until that has "
                    "ended",
                    code="context.in_use",
                )
            if not (self._documents / document.sha256).exists():
                self._memories.forget({document.sha256})
        return document

    def gc(self, older_than_ns: int, *, now_ns: int) -> Swept:
        """Remove documents that nobody has used for this long, and what interrupted writers left.

        Those that a run has open stay.
        """
        removed: list[Document] = []
        in_use = 0
        with self._access():
            if not self._documents.exists():
                return Swept(removed, in_use)
            with self._incoming.locked():
                self._incoming.sweep(now_ns, min(older_than_ns, KEPT_NS))
            for document in self.ls():
                used_ns = self._used_ns(document.sha256)
                if used_ns is None or used_ns > now_ns - older_than_ns:
                    continue
                if self._remove(document.sha256, unused_since_ns=now_ns - older_than_ns):
                    removed.append(document)
                else:
                    in_use += 1
            self._memories.forget({document.sha256 for document in removed})
        return Swept(removed, in_use)

    # ------------------------------------------------------------------------------------------------------------ add

    def _add(self, source: Source, name: str | None, reading: _Reading) -> Document:
        with self._access():
            if isinstance(source, Path):
                called = source.name if name is None else name
                return self._add_path(source, _printable(called or str(source)), reading)
            return self._ingest(
                _taking(source, reading), None if name is None else _printable(name), None, reading.now_ns
            )

    def _add_path(self, path: Path, name: str, reading: _Reading) -> Document:
        label = repr(_printable(str(path)))
        with opened(path, label) as descriptor:
            seen = os.fstat(descriptor)
            if stat.S_ISDIR(seen.st_mode):
                return self._add_folder(path, name, reading)
            refuse_unless_regular(seen.st_mode, label)
            sight = reading.sight_of(path, seen)
            known = self._recall(sight, name, reading)
            if known is not None:
                return known

            def take(place: Place) -> Draft:
                return _take_file(place, descriptor, label, reading)

            resumable = not self._lent and sight.settled_ns < reading.now_ns
            document = self._ingest(take, name, key_of(sight) if resumable else None, reading.now_ns)
            self._remember(sight, lambda: reading.sight_of(path, os.fstat(descriptor)), document, [], reading.now_ns)
        return document

    def _add_folder(self, path: Path, name: str, reading: _Reading) -> Document:
        if reading.json_lines:
            raise InvalidInput(
                f"{_printable(str(path))!r} is a folder: only a file can be read as --jsonl", code="context.not_json"
            )
        tree = walk(path, reading.errors)
        sight = reading.sight_of(path, tree)
        known = self._recall(sight, name, reading)
        if known is not None:
            return known
        left_out = list(tree.left_out)

        def take(place: Place) -> Draft:
            draft, more = take_tree(place, tree, reading.encoding, reading.errors, reading.on_progress)
            left_out.extend(more)
            return draft

        document = self._ingest(take, name, None, reading.now_ns)
        reading.tell(left_out)
        self._remember(
            sight, lambda: reading.sight_of(path, walk(path, reading.errors)), document, left_out, reading.now_ns
        )
        return document

    def _registered(self, path: Path, reading: _Reading) -> Document | None:
        """What a file or folder was registered as, if it has not changed since."""
        label = repr(_printable(str(path)))
        with opened(path, label) as descriptor:
            seen = os.fstat(descriptor)
            tree = walk(path, reading.errors) if stat.S_ISDIR(seen.st_mode) else seen
            return self._recall(reading.sight_of(path, tree), None, reading)

    def _recall(self, sight: Sight, name: str | None, reading: _Reading) -> Document | None:
        if self._lent:
            return None
        memory = self._memories.recall(sight)
        if memory is None or not _SHA256.fullmatch(memory.sha256):
            return None
        document = self._again(memory.sha256, name, reading.now_ns)
        if document is not None:
            reading.tell(memory.left_out)
        return document

    def _remember(
        self, before: Sight, look: Callable[[], Sight], document: Document, left_out: list[LeftOut], now_ns: int
    ) -> None:
        """Remember what a source became, if a second `look` sees what the first did."""
        if not self._lent and before.settled_ns < now_ns and before == look():
            with self._incoming.locked():
                self._memories.keep(before, document.sha256, left_out)

    def _ingest(self, take: _Take, name: str | None, key: str | None, now_ns: int) -> Document:
        with self._incoming.workspace(key, now_ns) as folder:
            lasting = not self._lent
            if self._room is None:
                place = Place(folder, lasting=lasting)
            else:
                place = self._room.place(folder, self._longest, lasting=lasting)
            document = _described(take(place), name, now_ns)
            if document.ascii:
                (folder / INDEX_FILE).unlink()
            with place.created(DOCUMENT_FILE) as file:
                file.write(msgspec.json.encode(document))
            os.utime(folder / DOCUMENT_FILE, ns=(now_ns, now_ns))
            (folder / NAMES_FOLDER).mkdir(mode=0o700)
            if name is not None and not self._lent:
                put_name(folder / NAMES_FOLDER, name, now_ns)
            (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
            self._flush(folder)
            return self._publish(folder, document, name, now_ns)

    def _publish(self, folder: Path, document: Document, name: str | None, now_ns: int) -> Document:
        for _ in range(_ATTEMPTS):
            try:
                with self._admitted(folder, document.sha256):
                    os.rename(folder, self._documents / document.sha256)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                self._flush(self._documents)
                return document
            first = self._again(document.sha256, name, now_ns)
            if first is not None:
                shutil.rmtree(folder, ignore_errors=True)
                return msgspec.structs.replace(first, name=document.name)
        raise HostFault(f"the stored context {document.sha256} is damaged; remove its folder")

    def _flush(self, folder: Path) -> None:
        """The names in a folder. What runs brought along need not outlive a power cut: the next start removes it."""
        if not self._lent:
            flush(folder)

    @contextlib.contextmanager
    def _admitted(self, folder: Path, sha256: str) -> Iterator[None]:
        """While a document gets its final name: there is room for it, and nobody else takes that. Raises as `add`."""
        if self._room is None:
            yield
            return
        with self._room.locked():
            if not (self._documents / sha256).exists():  # else it costs nothing, and if it goes just now, no more
                self._room.check(folder_bytes(folder))
            yield

    def _again(self, sha256: str, name: str | None, now_ns: int) -> Document | None:
        """Use a document once more, and under this name too; None if it is not there."""
        hold = self._hold(sha256)
        if hold is None:
            return None
        try:
            document = self._load(sha256)
            if document is None:
                return None
            self._touch(sha256, now_ns)
            if name is None:
                return document
            if not self._lent:
                put_name(self._documents / sha256 / NAMES_FOLDER, name, now_ns)
            return msgspec.structs.replace(document, name=name)
        finally:
            os.close(hold)

    # ------------------------------------------------------------------------------------------------------ documents

    def _hold(self, sha256: str) -> int | None:
        """A descriptor of a document's folder that keeps it from being removed; None if it is not there."""
        folder = self._documents / sha256
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            # Waits only for whoever has just published it, or is about to remove it: an instant.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if same_folder(folder, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _is_called(self, document: Document, name: str) -> bool:
        return name_in(self._documents / document.sha256 / NAMES_FOLDER, _printable(name)) is not None

    def _remove(self, sha256: str, unused_since_ns: int | None = None, name: str | None = None) -> bool:
        """Remove a document, unless it is in use or was used since; or just this name, if it is not its only one."""
        grave = self._incoming.grave()
        names = self._documents / sha256 / NAMES_FOLDER
        with self._incoming.locked():
            if name is not None and any(other.name != name for other in names_in(names)):
                drop_name(names, name)
                return True
            try:
                with folder_lock(self._documents / sha256):
                    used_ns = self._used_ns(sha256)
                    if unused_since_ns is not None and used_ns is not None and used_ns > unused_since_ns:
                        return False
                    os.rename(self._documents / sha256, grave)
            except BlockingIOError:
                return False
            except FileNotFoundError:  # somebody else has removed it
                return True
            self._flush(self._documents)
            shutil.rmtree(grave)
        return True

    def _used_ns(self, sha256: str) -> int | None:
        try:
            return (self._documents / sha256 / DOCUMENT_FILE).stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def _touch(self, sha256: str, now_ns: int) -> None:
        os.utime(self._documents / sha256 / DOCUMENT_FILE, ns=(now_ns, now_ns))

    def _sha256s(self) -> list[str]:
        names = os.listdir(self._documents) if self._documents.exists() else []
        return [name for name in names if _SHA256.fullmatch(name)]

    def _sizes(self) -> list[int]:
        return [folder_bytes(self._documents / sha256) for sha256 in self._sha256s()]

    def _longest(self) -> int:
        """The size of the longest document: one as long may turn out to be that one, which costs nothing."""
        return max(self._sizes(), default=0)

    def _load(self, sha256: str) -> Document | None:
        try:
            stored = (self._documents / sha256 / DOCUMENT_FILE).read_bytes()
            return msgspec.json.decode(stored, type=Document)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise HostFault(f"the stored context {sha256} is damaged ({error}); remove its folder") from error

    def _named(self, name: str) -> Document | None:
        """What was last added under a name: one look per document."""
        found: list[tuple[int, str]] = []
        for sha256 in self._sha256s():
            called = name_in(self._documents / sha256 / NAMES_FOLDER, name)
            if called is not None:
                found.append((called.added_ns, sha256))
        document = self._load(max(found)[1]) if found else None
        return None if document is None else msgspec.structs.replace(document, name=name)

    def _beginning(self, digits: str) -> Document | None:
        found = [sha256 for sha256 in self._sha256s() if sha256.startswith(digits)]
        if len(found) > 1:
            raise InvalidInput(f"several contexts begin with {digits}; give more digits", code="context.ambiguous")
        return self._load(found[0]) if found else None


def _tenant_folder(tenant: Tenant) -> str:
    return hashlib.sha256(tenant.encode()).hexdigest()[:_TENANT_DIGITS]


def _tenant_of(name: bytes) -> Tenant | None:
    try:
        return Tenant(name.decode())
    except (UnicodeDecodeError, InvalidInput):
        return None


class _Reading(msgspec.Struct, frozen=True):
    """How a path is to be taken in."""

    encoding: str | None
    errors: Errors
    json_lines: bool
    now_ns: int
    on_progress: OnProgress | None
    on_left_out: OnLeftOut | None

    @property
    def errors_in_file(self) -> Errors:
        """A single file cannot be left out."""
        return "strict" if self.errors == "skip" else self.errors

    def sight_of(self, path: Path, tree: Tree | os.stat_result) -> Sight:
        return sight_of(path, tree, self.encoding, self.errors, self.json_lines)

    def tell(self, left_out: list[LeftOut]) -> None:
        if self.on_left_out is not None:
            for one in left_out:
                self.on_left_out(one)


def _taking(source: object, reading: _Reading) -> _Take:
    """How a value is written into its place."""
    on_progress = reading.on_progress
    match source:
        case str():
            return lambda place: take_text(place, source, "the text", on_progress)
        case list() | tuple():
            return lambda place: take_list(place, source, on_progress)
        case dict():
            return lambda place: take_dict(place, source, on_progress)
        case io.RawIOBase() | io.BufferedIOBase():
            return lambda place: _take_stream(place, source, reading)
        case _:
            raise InvalidInput(
                f"a value of type {type(source).__name__} cannot be a context; give a str, list, dict, Path or open "
                "binary file",
                code="context.not_json",
            )


def _take_file(place: Place, source: int, label: str, reading: _Reading) -> Draft:
    errors = reading.errors_in_file
    if not reading.json_lines:
        return take_file(place, source, label, reading.encoding, errors, reading.on_progress)
    meter = Meter(reading.on_progress, os.fstat(source).st_size)
    taken = take_json_lines(place, file_texts(source, label, reading.encoding, errors, meter.at), label)
    meter.end()
    return taken


def _take_stream(place: Place, source: Any, reading: _Reading) -> Draft:
    """How long it is shows only at its end, so no progress is reported before."""
    label, errors = "the input", reading.errors_in_file
    texts = stream_texts(source, label, reading.encoding, errors, lambda _: None)
    if reading.json_lines:
        return take_json_lines(place, texts, label)
    return take_texts(place, texts, label, errors)


def _described(draft: Draft, name: str | None, now_ns: int) -> Document:
    measure = draft.measure
    return Document(
        sha256=draft.sha256,
        name=draft.kind if name is None else name,
        kind=draft.kind,
        chars=measure.chars,
        bytes=measure.bytes,
        ascii=measure.chars == measure.bytes,
        items=draft.items,
        lines=measure.lines,
        directory=draft.directory,
        key_chars=draft.key_chars,
        added_ns=now_ns,
    )


def _unknown(ref: str) -> InvalidInput:
    return InvalidInput(f"there is no context {ref[:80]!r}; list the contexts to find it", code="context.unknown")


def _printable(name: str) -> str:
    """A file name may hold bytes that are not text; a name for people may not."""
    return name.encode("utf-8", "replace").decode()


@contextlib.contextmanager
def _faults(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostFault(
            f"the context store at {str(root)!r} cannot be used ({error.strerror}); "
            "make room or correct its permissions, or choose another state folder"
        ) from error
