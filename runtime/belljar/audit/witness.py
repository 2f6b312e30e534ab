"""Checkpoints leave the machine: they are pushed to a witness, and read back from it.

What a witness has, whoever writes the log and the keys folder can no longer unsay. It is one of three::

    file:PATH                    each checkpoint is appended, one note after another: on another machine's disk, say
    http://..., https://...      the note is sent with POST; GET gives the notes back
    syslog:PATH|HOST:PORT        one line in a datagram, to a Unix socket or by UDP; it cannot be asked

**When.** A checkpoint is *offered* when it is durable, and offering waits for nothing: no run ends later because of a
witness. One push is under way at a time, for `PUSH_S` seconds at most, and of what is offered meanwhile only the newest
is pushed next, as a checkpoint vouches for all before it. Closing waits as long for what is under way, and not longer.

**When it fails.** That is logged once, kept in a file of the state folder for `belljar state check`, and the next
checkpoint is pushed in its place. Runs go on. A redirect is not followed and no proxy is used: a note goes to the
address that the host's configuration has, and to no other. Of what an endpoint answers to a push, only the status is
looked at.

**Reading back.** Of a file the last `READ_BYTES_MAX` bytes are read, of an endpoint that many or none, in `READ_S`
seconds. A syslog's own file can be read, too. What a witness has is signed, and is held to the log as any checkpoint
that was kept elsewhere (`verify`). A line that is part of none says nothing of the log: a full disk cut a note off, or
somebody garbled one. Nobody can tell which, so such lines are counted; of a syslog's file, where others write as well,
those that look like a part of a note. What was added behind a note does not make that one unreadable.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import socket
import ssl
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from belljar.audit.checkpoint import NOTE_BYTES_MAX, Note
from belljar.errors import BelljarError, HostFault, InvalidInput
from belljar.glyphs import blanked

if TYPE_CHECKING:
    import httpx2

__all__ = ["Address", "Told", "Witness", "Witnessed", "read_witness", "told_in"]

_log = logging.getLogger("belljar")
PUSH_S: Final = 5.0
READ_S: Final = 30.0
READ_BYTES_MAX: Final = 2**24  # some 50,000 checkpoints
_TOLD_BYTES_MAX: Final = 2**16
_SHOWN_CHARS_MAX: Final = 200
_EXAMPLE: Final = "write file:PATH, https://HOST/PATH, syslog:/dev/log or syslog:HOST:PORT"
_ORIGIN: Final = "belljar/log/"
_SYSLOG: Final = re.compile(rf'belljar: checkpoint ("(?:[^"\\\n]|\\[^\n]){{1,{NOTE_BYTES_MAX}}}")')
# Of a note: the checkpoint, an empty line, and the signatures.
_LINES_MAX: Final = 4 + 16
_TRACE: Final = re.compile(r"belljar/(?:log|key)/|belljar: checkpoint")
# Facility authpriv, severity notice: who reads the machine's own log reads this.
_PRIORITY: Final = 10 * 8 + 5


class Address(msgspec.Struct, frozen=True):
    """Where a witness is: `target` is a path, a URL, or HOST:PORT."""

    kind: Literal["file", "http", "syslog"]
    target: str

    @classmethod
    def read(cls, text: str, folder: Path) -> Address:
        """What the configuration says; a relative path starts at `folder`.

        Raises:
            InvalidInput: `audit.witness`: it is no such address.
        """
        kind, _, rest = text.partition(":")
        if not text.isprintable() or not rest:
            raise InvalidInput(f"this is no witness; {_EXAMPLE}", code="audit.witness")
        if kind == "file":
            with contextlib.suppress(RuntimeError):  # there is no such user
                return cls("file", str(folder / Path(rest).expanduser()))
        if kind in ("http", "https"):
            return cls("http", _url(text))
        if kind == "syslog" and (rest.startswith("/") or _host_and_port(rest) is not None):
            return cls("syslog", rest)
        raise InvalidInput(f"this is no witness; {_EXAMPLE}", code="audit.witness")

    @property
    def shown(self) -> str:
        """For messages: without the query of a URL, which can hold a password."""
        if self.kind == "http":
            return self.target.partition("?")[0]
        return f"{self.kind}:{self.target}"


def _url(text: str) -> str:
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        is_plain = parts.username is None and not parts.fragment and parts.port != 0
        if is_plain and parts.hostname and re.fullmatch(r"[!-~]+", text):
            return text
    raise InvalidInput(
        "this is not the URL of a witness; write one such as https://HOST/PATH, without user and password",
        code="audit.witness",
    )


def _host_and_port(text: str) -> tuple[str, int] | None:
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        return None
    return host.removeprefix("[").removesuffix("]"), int(port)


class Told(msgspec.Struct, frozen=True):
    """How pushing went last: the first `size` records were witnessed, and why a later push failed, if it did."""

    witness: str
    size: int | None = None
    error: str | None = None


def told_in(path: Path, address: Address) -> Told:
    """What the hosts of a state folder say of this witness; nothing was pushed where they say nothing."""
    try:
        with path.open("rb") as opened:
            found = msgspec.json.decode(opened.read(_TOLD_BYTES_MAX), type=Told)
    except (OSError, msgspec.DecodeError):
        return Told(address.shown)
    return found if found.witness == address.shown else Told(address.shown)


class Witness:
    """Pushes checkpoints to one witness. It belongs to one event loop.

    Args:
        told: the file that says how it went.
    """

    def __init__(self, address: Address, told: Path) -> None:
        self._address = address
        self._path = told
        self._told: Told | None = None
        self._next: tuple[int, str] | None = None
        self._taken: str | None = None
        self._pushing: asyncio.Task[None] | None = None
        self._lock = threading.Lock()
        self.trouble: str | None = None

    def offer(self, size: int, note: str) -> None:
        """Push the checkpoint of the first `size` records, which is durable, beside whatever goes on."""
        if note == self._taken:
            return
        self._next = size, note
        if self._pushing is None:
            self._pushing = asyncio.create_task(self._push())

    async def _push(self) -> None:
        try:
            while self._next is not None:
                (size, note), self._next = self._next, None
                try:
                    await _sent(self._address, note)
                except _NotTaken as error:
                    await self._keep(None, str(error))
                else:
                    self._taken = note
                    await self._keep(size, None)
        finally:
            self._pushing = None

    async def _keep(self, size: int | None, error: str | None) -> None:
        if error is not None and self.trouble is None:
            _log.warning(
                "belljar: the witness %s did not take a checkpoint (%s): the next one is pushed in its place; "
                "`belljar state check` tells",
                self._address.shown,
                error,
            )
        self.trouble = error
        with contextlib.suppress(OSError):  # where the state folder takes no file, the log is not written either
            await asyncio.to_thread(self._write, size, error)

    def _write(self, size: int | None, error: str | None) -> None:
        with self._lock:  # a push that was given up may still be writing
            before = self._told or told_in(self._path, self._address)
            self._told = Told(self._address.shown, before.size if size is None else size, error)
            draft = self._path.with_name(f".{self._path.name}-{os.getpid()}")
            draft.write_bytes(msgspec.json.encode(self._told))
            draft.replace(self._path)

    async def aclose(self) -> None:
        """Wait for what is under way, for at most `PUSH_S` seconds."""
        task = self._pushing
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            return
        await asyncio.wait([task], timeout=PUSH_S)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
            await self._keep(None, self.trouble or "the host closed before it was taken")


# -- pushing -----------------------------------------------------------------------------------------------------------


class _NotTaken(Exception):
    """Why a witness did not take a note."""


async def _sent(address: Address, note: str) -> None:
    send = {"file": _to_file, "http": _to_endpoint, "syslog": _to_syslog}[address.kind]
    try:
        async with asyncio.timeout(PUSH_S):
            await send(address.target, note)
    except TimeoutError:
        raise _NotTaken(f"it took longer than {PUSH_S:g} s") from None
    except (OSError, ValueError) as error:
        raise _NotTaken(_why(error)) from None


def _why(error: Exception) -> str:
    said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return blanked(said[:_SHOWN_CHARS_MAX])


async def _to_file(path: str, note: str) -> None:
    await asyncio.to_thread(_append, path, note.encode())


def _append(path: str, note: bytes) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is no file")
        if os.write(descriptor, note) != len(note):
            raise OSError("it was not written whole")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _to_syslog(target: str, note: str) -> None:
    # JSON has every character of a note in one line of ASCII.
    line = f"<{_PRIORITY}>belljar: checkpoint {json.dumps(note)}".encode()
    loop = asyncio.get_running_loop()
    family: int
    place: str | tuple[Any, ...]
    if target.startswith("/"):
        family, place = socket.AF_UNIX, target
    else:
        host, port = _host_and_port(target) or ("", 0)
        family, _, _, _, place = (await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM))[0]
    with socket.socket(family, socket.SOCK_DGRAM) as sending:
        sending.setblocking(False)
        await loop.sock_connect(sending, place)
        await loop.sock_sendall(sending, line)


async def _to_endpoint(url: str, note: str) -> None:
    async with _answer("POST", url, note.encode()) as response:
        if not response.is_success:
            raise OSError(f"it answered {response.status_code}")


@contextlib.asynccontextmanager
async def _answer(method: str, url: str, body: bytes | None = None) -> AsyncIterator[httpx2.Response]:
    """The beginning of what an endpoint answers. Raises OSError if it cannot be reached, or speaks no HTTP."""
    client = await asyncio.to_thread(_client)  # all of this machine's authorities are read for it
    import httpx2

    try:
        async with client, client.stream(method, url, content=body) as response:
            yield response
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def _client() -> httpx2.AsyncClient:
    import httpx2  # here, since most hosts have no such witness, and it takes long to load

    headers = {"Accept-Encoding": "identity", "Content-Type": "text/plain; charset=utf-8"}
    return httpx2.AsyncClient(
        verify=ssl.create_default_context(), follow_redirects=False, trust_env=False, timeout=None, headers=headers
    )


# -- reading back ------------------------------------------------------------------------------------------------------


class Witnessed(NamedTuple):
    """The checkpoints that a witness has, and how many lines that are part of none. `shown` names it in messages."""

    shown: str
    notes: list[str]
    unreadable: int


async def read_witness(place: str) -> Witnessed:
    """What a witness has: in a file, or as an http or https URL gives it.

    Raises:
        InvalidInput: `audit.witness`: it cannot be asked, or has none; `audit.file`: the file cannot be read.
        HostFault: the endpoint gives no notes.
    """
    address = Address.read(place if re.match(r"(?:https?|file|syslog):", place) else f"file:{place}", Path.cwd())
    if address.kind == "syslog":
        raise InvalidInput("a syslog cannot be asked; give the file that it writes", code="audit.witness")
    data = await (asyncio.to_thread(_tail, address.target) if address.kind == "file" else _fetched(address))
    notes, unreadable = _found_in(data.decode("utf-8", "replace"), is_cut=len(data) == READ_BYTES_MAX)
    if not notes:
        raise InvalidInput(
            f"the witness {address.shown} has no checkpoint: look who emptied it, or name another", code="audit.witness"
        )
    return Witnessed(address.shown, notes, unreadable)


def _tail(path: str) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise OSError("it is no file")
            opened.seek(max(0, os.fstat(opened.fileno()).st_size - READ_BYTES_MAX))
            return opened.read(READ_BYTES_MAX)
    except OSError as error:
        raise InvalidInput(
            f"the witness {path!a} cannot be read ({_why(error)}); name another file", code="audit.file"
        ) from error


async def _fetched(address: Address) -> bytes:
    found = bytearray()
    try:
        async with asyncio.timeout(READ_S), _answer("GET", address.target) as response:
            if not response.is_success:
                raise OSError(f"it answered {response.status_code}")
            async for piece in response.aiter_raw():
                found += piece
                if len(found) > READ_BYTES_MAX:
                    raise OSError(f"it gives more than {READ_BYTES_MAX} bytes")
    except TimeoutError:
        raise _unread(address, f"it took longer than {READ_S:g} s") from None
    except (OSError, ValueError) as error:
        raise _unread(address, _why(error)) from error
    return bytes(found)


def _unread(address: Address, why: str) -> BelljarError:
    return HostFault(f"the witness {address.shown} gives no checkpoints ({why}): see what it logs, or name a file")


def _found_in(text: str, *, is_cut: bool) -> tuple[list[str], int]:
    """Every checkpoint in a text, once each, in its order, and how many lines are part of none.

    Those in lines of a syslog count as well.

    Args:
        is_cut: it may begin within a note; what is before the first whole one is then no matter.
    """
    quoted = [_unescaped(match[1]) for match in _SYSLOG.finditer(text)]
    notes: list[str] = []
    rest: list[str] = []
    for number, piece in enumerate("\n".join([_SYSLOG.sub("", text), *quoted]).split(_ORIGIN)):
        piece = f"{_ORIGIN}{piece}" if number else piece
        note = _note(piece) or ""
        if note:
            notes.append(note)
        if notes or not is_cut:
            rest += piece[len(note) :].splitlines()
    lines = [line for line in rest if line.strip() and (not quoted or _TRACE.search(line))]
    return list(dict.fromkeys(notes)), len(lines)


def _unescaped(quoted: str) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        return quoted


def _note(text: str) -> str | None:
    """The checkpoint that a text begins with, with as many of the signatures behind it as can be read."""
    lines = text[:NOTE_BYTES_MAX].split("\n")
    end = next((at for at, line in enumerate(lines) if at >= 4 and not line.startswith("— ")), len(lines))
    for stop in range(min(end, _LINES_MAX), 4, -1):
        note = "".join(f"{line}\n" for line in lines[:stop])
        with contextlib.suppress(ValueError):
            Note.read(note)
            return note
    return None
