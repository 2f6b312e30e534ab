"""A tenant's contexts, named by their content.

    documents/<sha256>/   one folder per document (see `document`), complete or absent
    incoming/<random>/    a document that is being written, or deleted (see `incoming`)
    incoming/kept-<key>/  a large file that is being taken in, by the state of that file
    sources/              what sources looked like when they were taken in (see `sources`)
    tenant                whose store it is
    lock                  held for the instant in which `incoming` changes hands

How a document comes in. Its folder is written under `incoming`, flushed to disk, and renamed to its digest: one rename,
so that it is there whole or not at all. Two processes that add the same text both write it; the second rename finds the
first one's folder and yields to it. What a crash leaves, and how the next attempt goes on, is told in `incoming`.

How a document goes. A run that has it open holds a shared flock on its folder. `rm` and `gc` take the lock alone, or
let it be; with the lock they rename the folder into `incoming`, and delete it there. Who opens a document takes the
lock first, and then looks whether the folder is still in its place: from then on it stays there.

What a name means. A name is kept in the folder of the document that was added under it. When several have the same
name, it means the one that was added under it last; when that one is removed, the one before.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from belljar.context.document import DOCUMENT_FILE, INDEX_FILE, NAMES_FOLDER, Document, OpenDocument
from belljar.context.encodings import Errors
from belljar.context.files import (
    created,
    flush_folder,
    folder_lock,
    opened,
    refuse_unless_regular,
    same_folder,
)
from belljar.context.folder import LeftOut, take_tree, walk
from belljar.context.incoming import KEPT_NS, TENANT_FILE, Incoming, key_of
from belljar.context.intake import CHECKPOINT_FILE, Draft, OnProgress, take_file, take_text
from belljar.context.items import take_dict, take_list
from belljar.context.names import name_in, names_in, put_name
from belljar.context.sources import Memories, Sight, sight_of
from belljar.errors import HostFault, InvalidInput, Refusal

__all__ = ["DEFAULT_TENANT", "ContextStore", "ContextStores", "OnLeftOut", "Source", "Swept"]

# A Path is a file or a folder on this host; all else is the value itself.
Source: TypeAlias = "Path | str | Sequence[object] | Mapping[str, object]"
OnLeftOut = Callable[[LeftOut], None]
_Take = Callable[[Path], Draft]

DEFAULT_TENANT = "default"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{12,63}")
_TENANT_DIGITS = 32
# Each attempt is lost only if somebody removes the same document just then.
_ATTEMPTS = 8


class Swept(msgspec.Struct, frozen=True):
    """What `gc` has done: removed documents, and how many were old enough but in use."""

    removed: list[Document]
    in_use: int


class ContextStores:
    """The stores of all tenants below one folder. Nothing is shared between two of them, not even equal bytes."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def of(self, tenant: str = DEFAULT_TENANT) -> ContextStore:
        """A tenant's store. Touches no disk."""
        return ContextStore(self._root / _tenant_folder(tenant.encode("utf-8", "surrogatepass")), tenant=tenant)

    def tenants(self) -> list[str]:
        """All who have a store.

        Raises:
            HostFault: the folder cannot be read.
        """
        with _faults(self._root):
            signed = [(file.parent.name, file.read_bytes()) for file in self._root.glob(f"*/{TENANT_FILE}")]
        # A file that was damaged says somebody else's name, or none.
        found = [tenant for folder, tenant in signed if folder == _tenant_folder(tenant)]
        return sorted(tenant.decode("utf-8", "surrogatepass") for tenant in found)


class ContextStore:
    """Documents under one folder, shared by any number of threads and processes. Touches the disk only when used.

    Raises:
        HostFault: from every method, when the folder itself cannot be read or written.
    """

    def __init__(self, root: Path, *, tenant: str = DEFAULT_TENANT) -> None:
        self.tenant = tenant
        self._root = root
        self._documents = root / "documents"
        self._incoming = Incoming(root, tenant)
        self._sources = root / "sources"
        self._memories = Memories(self._sources)

    def add(
        self,
        source: Source,
        *,
        name: str | None = None,
        encoding: str | None = None,
        errors: Errors = "strict",
        now_ns: int,
        on_progress: OnProgress | None = None,
        on_left_out: OnLeftOut | None = None,
    ) -> Document:
        """Take in a context. The copy is the store's own: later changes of the source do not matter.

        An unchanged file is not read a second time (one look at it), nor an unchanged folder (one look at each file).
        A file that was interrupted halfway, also by a kill, goes on where it was.

        Args:
            source: a Path is a file or a folder on this host, chosen by the operator and never by a guest: a file
                becomes a text, a folder a dict from relative path to text. A str is the text itself; a list, or a dict
                with keys of type str, is one whose items are JSON values.
            name: what people call it; for a Path its last part when absent. When the same content is there already,
                the result carries this name, while `ls` keeps the first one; `find` knows both.
            encoding: of the file or files; UTF-8, or what the byte order mark says, when absent.
            errors: what to do about bytes that are no text: `strict` refuses them, `replace` makes each U+FFFD, `skip`
                leaves out such files of a folder.
            now_ns: nanoseconds since the epoch.
            on_progress: is told (done, total), at most 20 times a second, in bytes of the source (characters of a
                str, items of a list or dict). What it raises ends the work.
            on_left_out: is told what of a folder is not in the context, and why.

        Raises:
            InvalidInput: context.missing, context.unreadable, context.empty, context.binary, context.encoding,
                context.not_json, context.too_long.
        """
        with _faults(self._root):
            if isinstance(source, Path):
                called = source.name if name is None else name
                reading = _Reading(encoding, errors, now_ns, on_progress, on_left_out)
                return self._add_path(source, _printable(called or str(source)), reading)
            draft = _taking(source, on_progress)
            return self._ingest(draft, None if name is None else _printable(name), None, now_ns)

    def ls(self) -> list[Document]:
        """All documents, the oldest first."""
        with _faults(self._root):
            found = [self._load(sha256) for sha256 in self._sha256s()]
        return sorted((document for document in found if document), key=lambda d: (d.added_ns, d.sha256))

    def names(self, sha256: str) -> list[str]:
        """All that a document is called, the oldest name first."""
        with _faults(self._root):
            folder = self._documents / sha256 / NAMES_FOLDER
            return [name.name for name in sorted(names_in(folder), key=lambda name: (name.added_ns, name.name))]

    def used_ns(self, sha256: str) -> int:
        """When a document was last opened or added, nanoseconds since the epoch.

        Raises:
            InvalidInput: context.unknown.
        """
        with _faults(self._root):
            used_ns = self._used_ns(sha256)
        if used_ns is None:
            raise _unknown(sha256)
        return used_ns

    def find(self, ref: str) -> Document:
        """The document that somebody means: `sha256:HEX`, all or at least 12 digits of its digest, or a name.

        The result carries the name that was asked for. All digits mean a digest; else a name goes before a part of a
        digest.

        Raises:
            InvalidInput: context.unknown; context.ambiguous: several digests begin so.
        """
        with _faults(self._root):
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
        """Map a document for reading; the caller closes it. Until then, or his death, it is not removed.

        Args:
            now_ns: the time of this use; the clock's when absent.

        Raises:
            InvalidInput: context.bad_hash, context.unknown.
        """
        if not _SHA256.fullmatch(sha256):
            raise InvalidInput(
                "a context is named by 64 lower-case hex digits; `belljar context ls` shows them",
                code="context.bad_hash",
            )
        with _faults(self._root), contextlib.ExitStack() as held:
            hold = self._hold(sha256)
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
        """Remove a document; `ref` as `find` takes it.

        Raises:
            InvalidInput: context.unknown, context.ambiguous.
            Refusal: context.in_use.
        """
        document = self.find(ref)
        with _faults(self._root):
            if not self._remove(document.sha256):
                raise Refusal(
                    f"the context {document.name!r} ({document.sha256[:12]}) is in use by a run; wait for its end",
                    code="context.in_use",
                )
            self._memories.forget({document.sha256})
        return document

    def gc(self, older_than_ns: int, *, now_ns: int) -> Swept:
        """Remove the documents that nobody has used for so long, and what interrupted writers left.

        Those that a run has open are let be.
        """
        removed: list[Document] = []
        in_use = 0
        with _faults(self._root):
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

    def _add_path(self, path: Path, name: str, reading: _Reading) -> Document:
        label = repr(_printable(str(path)))
        with opened(path, label) as descriptor:
            seen = os.fstat(descriptor)
            if stat.S_ISDIR(seen.st_mode):
                return self._add_folder(path, name, reading)
            refuse_unless_regular(seen.st_mode, label)
            if reading.errors == "skip":
                raise InvalidInput(
                    f"{label} is a file: only files of a folder can be left out; choose strict or replace",
                    code="context.encoding",
                )
            sight = sight_of(path, seen, reading.encoding, reading.errors)
            known = self._recall(sight, name, reading)
            if known is not None:
                return known

            def take(folder: Path) -> Draft:
                return take_file(folder, descriptor, label, reading.encoding, reading.errors, reading.on_progress)

            key = key_of(sight) if sight.settled_ns < reading.now_ns else None
            document = self._ingest(take, name, key, reading.now_ns)
            after = sight_of(path, os.fstat(descriptor), reading.encoding, reading.errors)
            self._remember(sight, after, document, [], reading.now_ns)
        return document

    def _add_folder(self, path: Path, name: str, reading: _Reading) -> Document:
        tree = walk(path, reading.errors)
        sight = sight_of(path, tree, reading.encoding, reading.errors)
        known = self._recall(sight, name, reading)
        if known is not None:
            return known
        left_out = list(tree.left_out)

        def take(folder: Path) -> Draft:
            draft, more = take_tree(folder, tree, reading.encoding, reading.errors, reading.on_progress)
            left_out.extend(more)
            return draft

        document = self._ingest(take, name, None, reading.now_ns)
        reading.tell(left_out)
        after = sight_of(path, walk(path, reading.errors), reading.encoding, reading.errors)
        self._remember(sight, after, document, left_out, reading.now_ns)
        return document

    def _recall(self, sight: Sight, name: str, reading: _Reading) -> Document | None:
        memory = self._memories.recall(sight)
        if memory is None or not _SHA256.fullmatch(memory.sha256):
            return None
        document = self._again(memory.sha256, name, reading.now_ns)
        if document is not None:
            reading.tell(memory.left_out)
        return document

    def _remember(self, before: Sight, after: Sight, document: Document, left_out: list[LeftOut], now_ns: int) -> None:
        if before == after and before.settled_ns < now_ns:
            with self._incoming.locked():
                self._memories.keep(before, document.sha256, left_out)

    def _ingest(self, take: _Take, name: str | None, key: str | None, now_ns: int) -> Document:
        with self._incoming.workspace(key, now_ns) as folder:
            document = _described(take(folder), name, now_ns)
            if document.ascii:
                (folder / INDEX_FILE).unlink()
            with created(folder / DOCUMENT_FILE) as file:
                file.write(msgspec.json.encode(document))
            os.utime(folder / DOCUMENT_FILE, ns=(now_ns, now_ns))
            (folder / NAMES_FOLDER).mkdir(mode=0o700)
            if name is not None:
                put_name(folder / NAMES_FOLDER, name, now_ns)
            (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
            flush_folder(folder)
            return self._publish(folder, document, name, now_ns)

    def _publish(self, folder: Path, document: Document, name: str | None, now_ns: int) -> Document:
        for _ in range(_ATTEMPTS):
            try:
                os.rename(folder, self._documents / document.sha256)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                flush_folder(self._documents)
                return document
            first = self._again(document.sha256, name, now_ns)
            if first is not None:
                shutil.rmtree(folder, ignore_errors=True)
                return msgspec.structs.replace(first, name=document.name)
        raise HostFault(f"the stored context {document.sha256} is damaged; remove its folder")

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
            # Waits only for who has just published it, or is about to remove it: an instant.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if same_folder(folder, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _remove(self, sha256: str, unused_since_ns: int | None = None) -> bool:
        """Take a document away, unless it is in use, or was used since."""
        grave = self._incoming.grave()
        with self._incoming.locked():
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
            flush_folder(self._documents)
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


def _tenant_folder(tenant: bytes) -> str:
    return hashlib.sha256(tenant).hexdigest()[:_TENANT_DIGITS]


class _Reading(msgspec.Struct, frozen=True):
    """How a path is to be taken in."""

    encoding: str | None
    errors: Errors
    now_ns: int
    on_progress: OnProgress | None
    on_left_out: OnLeftOut | None

    def tell(self, left_out: list[LeftOut]) -> None:
        if self.on_left_out is not None:
            for one in left_out:
                self.on_left_out(one)


def _taking(source: object, on_progress: OnProgress | None) -> _Take:
    """How a value is written into a folder."""
    match source:
        case str():
            return lambda folder: take_text(folder, source, "the text", on_progress)
        case list():
            return lambda folder: take_list(folder, source, on_progress)
        case dict():
            return lambda folder: take_dict(folder, source, on_progress)
        case _:
            raise InvalidInput(
                f"a {type(source).__name__} cannot be a context; give a str, a list, a dict or a Path",
                code="context.not_json",
            )


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
    return InvalidInput(f"there is no context {ref[:80]!r}; add it first", code="context.unknown")


def _printable(name: str) -> str:
    """A file name may hold bytes that are no text; as a name for people it must."""
    return name.encode("utf-8", "replace").decode()


@contextlib.contextmanager
def _faults(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostFault(
            f"the context store at {str(root)!r} cannot be used ({error.strerror}); "
            "make room or mend its permissions, or choose another state folder"
        ) from error
