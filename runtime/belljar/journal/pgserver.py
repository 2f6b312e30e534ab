"""One connection to a PostgreSQL server for synchronous code: every call has a deadline, every failure is one line.

asyncpg needs an event loop. This one runs only inside a call, in whichever thread makes it, one at a time. So what the
server says between two calls, such as that it is shutting down, is heard in the next.

There are two deadlines. The server gives up waiting for a lock after `patience_s`, and any statement a little later,
and says so. If it says nothing, we drop the connection later still. The server ends a transaction in which nothing
happens after half of that time: a host that was stopped inside one does not hold up the others for longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import ssl
import time
import urllib.parse
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

import asyncpg
from asyncpg.connect_utils import SessionAttribute
from asyncpg.exceptions import TargetServerAttributeNotMatched

from belljar.journal.draft import Stale, StoreError

__all__ = ["Locked", "Lost", "Server", "Unanswered", "numbered"]

_T = TypeVar("_T")

_SPARE_S: Final = 2.0  # how much later than the server we give up
_AGAIN_S: Final = 0.05  # between two attempts to connect
_READING_S: Final = 600.0
_VERSION_MIN: Final = 15

# The two trees of the client's own errors.
_CLIENT: Final = (asyncpg.InterfaceError, asyncpg.InternalClientError)
# Errors of the server after which there is no connection, or none yet.
# The last is of a session that is not ours alone any more: somebody between us and the server dropped its statements.
_GONE: Final = ("08", "57P", "25P03", "26")
_POOLER: Final = "name the server itself in the URL, if there is a pooler before it"
_TAKEN: Final = "SELECT name FROM pg_settings WHERE name = ANY($1) AND source = 'client'"
_ADVICE: Final = {
    "53100": "the server's disk is full; free some space",
    "53300": "the server has no connection left; end some, or raise its max_connections",
    "55P03": "another host holds it for more than {patience:g} s; find and end that process",
    "57014": "the server took more than {patience:g} s; look at its load",
    "25006": "the server is read-only; name the primary in the URL",
    "08P01": f"{{said}}; {_POOLER}",
    "42P05": f"the session has another one's statements; {_POOLER}",
    "22023": "{said}; if the URL says so, leave it out there",
    "42704": "{said}; if the URL names it, leave it out there",
    "3D000": "{said}; create it or choose another",
    "42501": "{said}; grant it to the user in the URL",
    "BJ001": "{said}",
}
# By class, for what is not listed above.
_ADVICE_OF_CLASS: Final = {
    "08": "{said}; check the network",
    "22": "{said}; it cannot keep such a value",
    "23": "{said}; what is in it contradicts itself, so verify it before anything else",
    "28": "{said}; check user and password",
    "42": "{said}; its schema is not as we make it",
    "53": "{said}; give the server more",
    "57": "{said}; check the server",
    "58": "{said}; check the server's disk",
    "XX": "{said}; check the server's disk",
}


class Lost(Stale):
    """The connection broke. Nothing was written unless a commit was under way."""


class Locked(StoreError):
    """Somebody else had the lock for as long as we wait."""


class Unanswered(StoreError):
    """The server said nothing in time. The connection is dropped."""


class Server:
    """A connection. Every method raises `StoreError`; after `Lost`, connect again.

    Args:
        url: what asyncpg understands; no message contains its password.
        patience_s: seconds to wait for a lock, a statement or a connection. Set later, it says how long we wait; how
            long the server does stays what it was told.
        reading: change nothing: any server of the URL will do, and a statement or a pause may take `_READING_S`.
    """

    def __init__(self, url: str, *, patience_s: float, reading: bool = False) -> None:
        self._url = url
        self._secrets = _secrets_of(url)
        self.patience_s = patience_s
        self._reading = reading
        self._settings = {
            "application_name": "belljar",
            "search_path": "belljar",
            "default_transaction_isolation": "read committed",
            "default_transaction_read_only": "on" if reading else "off",
            "synchronous_commit": "on",  # any session may be set up without
            "client_min_messages": "warning",  # likewise: a commit that was not replicated is only a warning
            "lock_timeout": _ms(patience_s),
            "statement_timeout": _ms(self._answer_s - _SPARE_S / 2),
            "idle_in_transaction_session_timeout": _ms(_READING_S if reading else patience_s / 2),
            # What a round looks for is found by an index, also by a plan made while the table was empty.
            "enable_seqscan": "off",
            "jit": "off",
        }
        self._loop = asyncio.new_event_loop()
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        # Whether the last call succeeded with a warning: a commit that was not replicated does.
        self.warned = False

    @property
    def _answer_s(self) -> float:
        return (_READING_S if self._reading else self.patience_s) + _SPARE_S

    @property
    def is_open(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    def connect(self, *, until: float = 0.0) -> None:
        """Connect. What may pass is tried again until that time of the monotonic clock.

        A server that is starting up is waited for in any case.
        """
        starting = time.monotonic() + self.patience_s
        while True:
            now = time.monotonic()
            seconds = max(_AGAIN_S, (max(until, starting) if until else starting) - now)
            try:
                self._connection = self._wait(self._connected(seconds), seconds)
                break
            except ssl.SSLCertVerificationError as error:  # a ValueError, too
                raise StoreError(self._advice(error)) from None
            except (asyncpg.ClientConfigurationError, ValueError):
                # Its text may quote the URL.
                raise StoreError(
                    "the URL is not valid, or an option in it; use postgresql://user@host:port/database"
                ) from None
            except Exception as error:
                passing = isinstance(error, OSError | asyncpg.InternalClientError) or _is_gone(error)
                deadline = starting if isinstance(error, asyncpg.CannotConnectNowError) else until
                if not passing or time.monotonic() >= deadline:
                    raise StoreError(self._advice(error)) from None
            time.sleep(_AGAIN_S)
        major = self._connection.get_server_version().major
        if major < _VERSION_MIN:
            raise StoreError(f"the server is PostgreSQL {major}; it takes {_VERSION_MIN} or later")
        self._connection.add_log_listener(self._hear)
        self._refuse_pooler()

    def execute(self, statement: str) -> str:
        """Run statements without values. Returns what the server calls the last one, as `COMMIT`."""
        status: str = self._call(lambda connection: connection.execute(statement))
        return status

    def fetch(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of one statement, with `$1` for each value."""
        rows: list[asyncpg.Record] = self._call(lambda connection: connection.fetch(statement, *values))
        return [tuple(row) for row in rows]

    def drop(self) -> None:
        """Close the connection without telling the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
            self._loop.run_until_complete(_settle())

    def forget(self) -> None:
        """In a forked child: the parent's socket is the parent's, and must not stay open here when it dies."""
        if self._connection is not None:
            _FORGOTTEN.append(self)
            transport: asyncio.BaseTransport = self._connection._transport  # type: ignore[attr-defined]
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            # The number stays taken: nothing that still has it can touch what is opened later.
            os.dup2(null, transport.get_extra_info("socket").fileno(), inheritable=False)
            os.close(null)

    def close(self) -> None:
        if self._loop.is_closed():
            return
        if self._connection is not None:
            with contextlib.suppress(Exception):  # it is let go of in any case
                self._wait(self._connection.close(timeout=_SPARE_S), _SPARE_S)
        self.drop()
        self._loop.close()

    def _refuse_pooler(self) -> None:
        """Nobody is between us and the server who keeps our settings to himself: no lock would have a deadline."""
        taken = self.fetch(_TAKEN, list(self._settings))
        if len(taken) != len(self._settings):
            self.drop()
            raise StoreError(f"a session does not take our settings; {_POOLER}")

    async def _connected(self, seconds: float) -> asyncpg.Connection[asyncpg.Record]:
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            self._url,
            timeout=seconds,
            target_session_attrs=SessionAttribute.any if self._reading else SessionAttribute.read_write,
            server_settings=self._settings,
        )
        return connection

    def _call(self, ask: Any) -> Any:
        if self._connection is None:
            raise Lost("the connection to the server was lost; check the network")
        self.warned = False
        try:
            return self._wait(ask(self._connection), self._answer_s)
        except TimeoutError:
            self.drop()
            raise Unanswered(
                f"the server did not answer within {self._answer_s:g} s; check the network and its load"
            ) from None
        except (OSError, UnicodeError, OverflowError, asyncpg.PostgresError, *_CLIENT) as error:
            # A connection that is being ended by the server can be in no state that the client has a word for.
            gone = not self.is_open or isinstance(error, OSError | asyncpg.InternalClientError) or _is_gone(error)
            if gone:
                self.drop()
            kind = Lost if gone else Locked if isinstance(error, asyncpg.LockNotAvailableError) else StoreError
            raise kind(self._advice(error)) from error

    def _wait(self, work: Awaitable[_T], seconds: float) -> _T:
        return self._loop.run_until_complete(_bounded(work, seconds))

    def _hear(self, _connection: object, message: Any) -> None:
        self.warned = self.warned or message.severity_en == "WARNING"

    def _advice(self, error: Exception) -> str:
        """One line: what the server or the network says, and what to do."""
        said = " ".join(str(error).split()) or type(error).__name__
        for secret in self._secrets:
            said = said.replace(secret, "***")
        if isinstance(error, TimeoutError):
            return f"the server did not answer within {self.patience_s:g} s; check its address and the network"
        if isinstance(error, ssl.SSLError):
            return f"the server's certificate is not believed ({said}); check sslrootcert and sslmode of the URL"
        if isinstance(error, OSError):
            return (
                f"the server cannot be reached ({said}); check that it runs, the address, and files that the URL names"
            )
        if isinstance(error, TargetServerAttributeNotMatched):
            return "no server of the URL takes writes; name the primary"
        if isinstance(error, asyncpg.InternalClientError):
            return f"the connection to the server broke ({said}); check the network"
        state = getattr(error, "sqlstate", None) or ""
        text = _ADVICE.get(state) or _ADVICE_OF_CLASS.get(state[:2]) or "{said}; check the server"
        return text.format(said=said, patience=self.patience_s)


# What a forked child must neither use nor destroy.
_FORGOTTEN: Final[list[Server]] = []


def _secrets_of(url: str) -> list[str]:
    """What of the URL must not be said: passwords, as written and as meant."""
    try:
        parts = urllib.parse.urlsplit(url)
        found = [parts.password or ""]
    except ValueError:
        return [url]
    found += [value for key, value in urllib.parse.parse_qsl(parts.query) if "password" in key]
    found += [urllib.parse.unquote(each) for each in found]
    return sorted({each for each in found if each}, key=len, reverse=True)


def _is_gone(error: Exception) -> bool:
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "").startswith(_GONE)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


async def _bounded(work: Awaitable[_T], seconds: float) -> _T:
    async with asyncio.timeout(seconds):
        return await work


async def _settle() -> None:
    """End what a dropped connection still has under way, and let its socket be closed."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)


@functools.cache
def numbered(statement: str) -> str:
    """With `$1`, `$2` for each `?`. No text of ours has one that is not a place for a value."""
    first, *rest = statement.split("?")
    return first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))
