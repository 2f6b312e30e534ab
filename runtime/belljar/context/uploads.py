"""Contexts that arrive piece by piece, from a client that may go away and come back.

    <id>/upload.json   whose it is, how long it will be, and what its digest has to be; then, which context it became
    <id>/data          what has arrived; its length is how far it got
    <id>/              has an exclusive flock while somebody writes to it

How far an upload got is the length of a file, so a crash cannot make it wrong: what did not arrive on the disk is sent
again. There is one writer at a time; the kernel drops the lock of one that died. When the last byte is there, the whole
is compared with its digest and taken in as any file is; the data is then removed, and what is left says which context
it became, for a client that did not hear of it.

What nobody has written to for some time is removed (`sweep`), unless somebody writes to it at that moment. What all
uploads of one tenant will come to is bounded: nobody fills the disk with beginnings. Whoever begins one has a flock on
the folder of all while that is counted. Of those that became a context only the latest stay, since each is looked at
whenever one begins.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from belljar.context.document import Document
from belljar.context.files import folder_lock
from belljar.context.store import ContextStore, FileSource
from belljar.durable import created, flush, replaced
from belljar.errors import HostFault, InvalidInput, QuotaExceeded, Refusal
from belljar.identity import Tenant

__all__ = ["Upload", "Uploads"]

_ID: Final = re.compile(r"[0-9a-f]{32}")
_INFO: Final = "upload.json"
_DATA: Final = "data"
_AT_ONCE_MAX: Final = 64
_DONE_MAX: Final = 64
_SLICE_BYTES: Final = 1 << 20


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """One upload.

    Attributes:
        offset: how many bytes have arrived, of `length`.
        sha256: what the digest of all of them has to be, in hex digits; None if nobody said.
        json_lines: each line is an item of a list, in JSON.
        context: the digest of the context that it became; None until then.
    """

    id: str
    tenant: str
    length: int
    name: str
    sha256: str | None = None
    json_lines: bool = False
    context: str | None = None
    offset: int = 0


class Uploads:
    """All uploads of a host, in one folder.

    Args:
        bytes_max: how long the uploads of one tenant, and of all below it, may be together.
        keep_s: how long one may rest, in seconds.
    """

    def __init__(self, folder: Path, *, bytes_max: int, keep_s: float) -> None:
        self._folder = folder
        self.bytes_max: Final = bytes_max
        self.keep_s: Final = keep_s

    def create(
        self, tenant: Tenant, length: int, *, name: str, sha256: str | None = None, json_lines: bool = False
    ) -> Upload:
        """Begin one.

        Raises:
            InvalidInput: `context.too_long`, `context.empty`.
            QuotaExceeded: `upload.tenant`: the tenant has begun too many.
            HostFault: the folder cannot be written.
        """
        if length < 1:
            raise InvalidInput("an upload needs at least one byte; send what there is", code="context.empty")
        if length > self.bytes_max:
            raise InvalidInput(
                f"an upload of {length} bytes is too long; send at most {self.bytes_max}",
                code="context.too_long",
                limit=self.bytes_max,
                observed=length,
            )
        with _faults(), self._counting():
            self.sweep()
            known = self._all()
            self._check_room(tenant, length, known)
            self._forget_done(tenant, known)
            made = Upload(
                id=secrets.token_hex(16),
                tenant=str(tenant),
                length=length,
                name=name,
                sha256=sha256,
                json_lines=json_lines,
            )
            place = self._folder / made.id
            place.mkdir(mode=0o700, parents=True)
            with created(place / _DATA):
                pass
            with replaced(place / _INFO) as file:  # whoever is killed here leaves none, not the beginning of one
                file.write(msgspec.json.encode(made))
            flush(self._folder)
        return made

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        """Else many who begin at the same time would all find the room that there is for one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _check_room(self, tenant: Tenant, length: int, known: list[Upload]) -> None:
        """What a tenant begins counts for each tenant above it, too: else new names below it would have no bound."""
        begun = [(Tenant(one.tenant).levels, one.length) for one in known if one.context is None]
        for level in tenant.levels:
            mine = [size for levels, size in begun if level in levels]
            total = length + sum(mine)
            if total > self.bytes_max or len(mine) >= _AT_ONCE_MAX:
                raise QuotaExceeded(
                    f"the tenant {level} has begun too many uploads: end or remove one of them first",
                    code="upload.tenant",
                    limit=self.bytes_max,
                    observed=total,
                    # What the levels above have begun is not theirs to know who are below.
                    told=None if level == tenant else "a tenant above has begun too many uploads: try again later",
                    scope=str(level),
                    dimension="context_bytes",
                    period="now",
                )

    def _forget_done(self, tenant: Tenant, known: list[Upload]) -> None:
        """Remove what is left of those that became contexts longest ago, where its first-level tenant has too many."""
        first = tenant.levels[0]
        done = [one.id for one in known if one.context is not None and Tenant(one.tenant).levels[0] == first]
        if len(done) > _DONE_MAX:
            for name in sorted(done, key=self._since)[:-_DONE_MAX]:
                with contextlib.suppress(FileNotFoundError, BlockingIOError), folder_lock(self._folder / name):
                    shutil.rmtree(self._folder / name, ignore_errors=True)

    def _since(self, upload: str) -> int:
        try:
            return (self._folder / upload / _INFO).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def get(self, upload: str) -> Upload:
        """One, and how far it got.

        Raises:
            InvalidInput: `upload.unknown`.
            HostFault: it cannot be read.
        """
        with _faults():
            found = self._read(upload)
        if found is None:
            raise _unknown(upload)
        return found

    @contextlib.contextmanager
    def writing(self, upload: str, offset: int) -> Iterator[Callable[[bytes], None]]:
        """Be the one that writes to it from `offset` on, for the length of a block: what is called takes more bytes.

        Raises:
            InvalidInput: `upload.unknown`; `upload.too_long`, from the writing: there are more than it was to have.
            Refusal: `upload.busy`: somebody else writes to it; `upload.offset`: it got to another place.
            HostFault: it cannot be written.
        """
        with self._held(upload) as place:
            found = self.get(upload)
            if offset != found.offset:
                raise Refusal(
                    f"the upload has {found.offset} bytes; go on from there",
                    code="upload.offset",
                    limit=found.offset,
                    observed=offset,
                )
            left = found.length - found.offset
            with _faults(), contextlib.ExitStack() as stack:
                file = None if found.context else stack.enter_context((place / _DATA).open("ab", buffering=0))

                def write(data: bytes) -> None:
                    nonlocal left
                    left -= len(data)
                    if left < 0:
                        raise InvalidInput(
                            f"the upload has more than the {found.length} bytes that were announced; begin a new one",
                            code="upload.too_long",
                        )
                    with _faults():
                        view = memoryview(data)
                        while view and file is not None:
                            view = view[file.write(view) :]

                yield write

    def finish(self, upload: str, store: ContextStore) -> Document:
        """Compare a whole upload with its digest, and take it in as a context. Whoever asks again gets the same one.

        Raises:
            Refusal: `upload.busy`; `upload.offset`: it is not whole.
            InvalidInput: `upload.unknown`; `upload.digest`: it is not what it was to be, and is removed; as
                `ContextStore.add`, and then it is removed, too.
            QuotaExceeded: there is no room for it; it stays, and this may be tried again.
        """
        with self._held(upload) as place:
            found = self.get(upload)
            if found.context is not None:
                return store.find(f"sha256:{found.context}")
            if found.offset != found.length:
                raise Refusal("the upload is not whole; go on with it", code="upload.offset", limit=found.offset)
            try:
                if found.sha256 is not None and _digest(place / _DATA) != found.sha256:
                    raise InvalidInput(
                        "what was uploaded does not have the digest that was announced; upload it again",
                        code="upload.digest",
                    )
                source = FileSource(place / _DATA, json_lines=found.json_lines)
                document = store.add(source, name=found.name, now_ns=time.time_ns())
            except InvalidInput as error:
                shutil.rmtree(place, ignore_errors=True)
                raise InvalidInput(str(error).replace(str(place / _DATA), "the upload"), code=error.code) from None
            with _faults():
                done = msgspec.structs.replace(found, context=document.sha256)
                with replaced(place / _INFO) as file:
                    file.write(msgspec.json.encode(done))
                (place / _DATA).unlink(missing_ok=True)
        return document

    def remove(self, upload: str) -> None:
        """Give one up.

        Raises:
            InvalidInput: `upload.unknown`. Refusal: `upload.busy`.
        """
        with self._held(upload) as place:
            shutil.rmtree(place, ignore_errors=True)

    def sweep(self) -> int:
        """Remove those that nobody has written to for too long. Returns how many.

        Raises:
            HostFault: the folder cannot be read.
        """
        gone = 0
        with _faults():
            for place in self._places():
                with contextlib.suppress(FileNotFoundError, BlockingIOError), folder_lock(place):
                    last = max(file.stat().st_mtime for file in (place, *place.iterdir()))
                    if last < time.time() - self.keep_s:
                        shutil.rmtree(place, ignore_errors=True)
                        gone += 1
        return gone

    def _all(self) -> list[Upload]:
        return [found for place in self._places() if (found := self._read(place.name)) is not None]

    def _places(self) -> list[Path]:
        names = os.listdir(self._folder) if self._folder.exists() else []
        return [self._folder / name for name in names if _ID.fullmatch(name)]

    def _read(self, upload: str) -> Upload | None:
        """None also of one that is just being made, or removed."""
        if _ID.fullmatch(upload) is None:
            return None
        place = self._folder / upload
        try:
            found = msgspec.json.decode((place / _INFO).read_bytes(), type=Upload)
            offset = found.length if found.context is not None else (place / _DATA).stat().st_size
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            raise HostFault(f"the upload {upload} is damaged; remove its folder") from None
        return msgspec.structs.replace(found, offset=offset)

    @contextlib.contextmanager
    def _held(self, upload: str) -> Iterator[Path]:
        self.get(upload)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(folder_lock(self._folder / upload))
            except BlockingIOError:
                raise Refusal(
                    "somebody else writes to this upload; wait until they are done", code="upload.busy"
                ) from (None)
            except FileNotFoundError:
                raise _unknown(upload) from None
            yield self._folder / upload


def _unknown(upload: str) -> InvalidInput:
    return InvalidInput(f"there is no upload {upload[:40]!a}: begin a new one", code="upload.unknown")


def _digest(path: Path) -> str:
    """In slices, so that whoever shares the interpreter goes on meanwhile."""
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_SLICE_BYTES):
            found.update(piece)
    return found.hexdigest()


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except (BlockingIOError, FileNotFoundError):
        raise
    except OSError as error:
        raise HostFault(
            f"the folder of uploads cannot be used ({error.strerror}); make room, or correct its permissions"
        ) from error
