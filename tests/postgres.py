"""A PostgreSQL server of the tests' own: started for them, gone with them, reached through a socket in its folder.

    the tests ──"start", "stop", end of file──> the keeper ──> postgres
              <─────────── its pid ───────────

The keeper is this file, run as a script. PostgreSQL refuses to run as root, so there it becomes another user before it
does anything. To the tests it is a stranger, not a child: they look for processes that they left behind. It reads a
pipe that only the tests' process can write: however that ends, SIGKILL included, the pipe ends, and then the keeper
ends the server and removes the folder.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ctypes
import os
import pwd
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import asyncpg

__all__ = ["Postgres", "Unavailable", "sql"]

# Also of a new server, on a disk where others flush.
START_S = 180.0
STOP_S = 120.0
# Debian puts every version's programs into a folder of their own.
PROGRAMS = Path("/usr/lib/postgresql")
USERS = ("postgres", "nobody")
PR_SET_PDEATHSIG = 1


class Unavailable(Exception):
    """There can be no server here: says why, and the remedy."""


class Postgres:
    """A server that flushes as in earnest. Use it as a context manager; `database` gives a new one."""

    def __init__(self, primary: Postgres | None = None) -> None:
        """Nothing is started yet. With a `primary` it will be that one's standby.

        Raises:
            Unavailable: it is not installed.
        """
        self._programs = _programs()
        self._primary = "" if primary is None else str(primary.folder)
        # A socket's address has 107 bytes at most: the usual place for temporary files can be far down.
        self.folder: Path = Path(tempfile.mkdtemp(prefix="belljar-pg-", dir="/tmp"))
        self.pid = 0
        self._databases: list[str] = []
        self._keeper: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        try:
            self._keep()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def socket(self) -> Path:
        return self.folder / ".s.PGSQL.5432"

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://belljar@/{database}?host={self.folder}"

    def database(self) -> str:
        """The URL of a new database."""
        name = f"t{secrets.token_hex(6)}"
        sql(self.url(), f"CREATE DATABASE {name}")
        self._databases.append(name)
        return self.url(name)

    def drop(self) -> None:
        """Remove all these databases: to stop the server would write every page of them."""
        while self._databases:
            sql(self.url(), f"DROP DATABASE {self._databases.pop()} WITH (FORCE)")

    def start(self) -> None:
        """Start the server, with the data that it had if it ran before, and wait until it answers.

        Raises:
            Unavailable: it does not; says what it wrote last.
        """
        self.pid = self._order("start", START_S)
        deadline = time.monotonic() + START_S
        while True:
            try:
                sql(self.url(), "SELECT 1")
                return
            except (OSError, asyncpg.PostgresError) as error:
                if time.monotonic() > deadline:
                    raise Unavailable(f"PostgreSQL does not start here: {error}\n{self.log()}") from error
            time.sleep(0.02)

    def stop(self, how: str = "stop") -> None:
        """Stop the server: `stop` ends its connections in order, `kill` as a crash does. The data stays."""
        self.pid = self._order(how, STOP_S)

    def close(self) -> None:
        """End everything, and remove all that it made."""
        keeper, self._keeper, self.pid = self._keeper, None, 0
        if keeper is not None:
            assert keeper.stdin is not None
            assert keeper.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                keeper.stdin.close()
            # The keeper is done when its end of the other pipe closes.
            select.select([keeper.stdout], [], [], STOP_S)
            keeper.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """The end of what the server and the keeper wrote."""
        return (self.folder / "log").read_text("utf-8", "replace")[-2000:]

    def _keep(self) -> None:
        user = _user()
        if user is not None:
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        uid = "" if user is None else str(user.pw_uid)
        command = [sys.executable, "-I", __file__, str(self.folder), str(self._programs), uid, self._primary]
        from tests.daemon import adopting_nobody  # not for the keeper, which is not in the package

        with adopting_nobody(), open(self.folder / "log", "w", encoding="utf-8") as log:
            self._keeper = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
            self._keeper.wait(START_S)

    def _order(self, word: str, seconds: float) -> int:
        if self._keeper is None or self._keeper.stdin is None or self._keeper.stdout is None:
            raise Unavailable("the server is closed")
        with contextlib.suppress(BrokenPipeError):
            print(word, file=self._keeper.stdin, flush=True)
        if not select.select([self._keeper.stdout], [], [], seconds)[0]:
            raise Unavailable(f"the server's keeper did not {word} it within {seconds} s: {self.log()}")
        answer = self._keeper.stdout.readline()
        if not answer:
            raise Unavailable(f"the server's keeper has ended: {self.log()}")
        return int(answer)


def sql(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """What one statement gives, asked through a connection of its own. Also where an event loop runs."""

    async def ask() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url, timeout=START_S)
        try:
            return [tuple(row) for row in await connection.fetch(statement, *values)]
        finally:
            await connection.close()

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(ask())).result()


def _programs() -> Path:
    """The folder with the newest `postgres` and `initdb`."""
    found = sorted(PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3].split(".")[0]))
    elsewhere = shutil.which("initdb")
    if not found and elsewhere is None:
        raise Unavailable("PostgreSQL is not installed: `make unit` as root or with sudo installs it on Debian")
    return (found[-1] if found else Path(str(elsewhere))).parent


def _user() -> pwd.struct_passwd | None:
    """Whom root has to become; None where this is not root."""
    if os.geteuid() != 0:
        return None
    for name in USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Unavailable("PostgreSQL does not run as root, and there is no other user here: add one named postgres")


# ----------------------------------------------------------------------------------------------------------- the keeper


class _Keeper:
    def __init__(self, folder: Path, programs: Path, primary: str) -> None:
        self._folder = folder
        self._primary = primary
        self._programs = programs
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        data = self._folder / "data"
        if not data.exists():
            self._create(data)
        self._server = subprocess.Popen(
            [self._programs / "postgres", "-D", data, "-c", f"unix_socket_directories={self._folder}"],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            preexec_fn=_end_with_parent,
        )
        return self._server.pid

    def stop(self) -> int:
        return self._end(signal.SIGINT)

    def kill(self) -> int:
        return self._end(signal.SIGQUIT)

    def _end(self, number: int) -> int:
        if self._server is not None:
            self._server.send_signal(number)
            try:
                self._server.wait(STOP_S / 2)
            except subprocess.TimeoutExpired:
                # Not SIGKILL: its children would live on, and no other server could be started with the same data.
                self._server.send_signal(signal.SIGQUIT)
                self._server.wait()
            self._server = None
        return 0

    def _create(self, data: Path) -> None:
        if self._primary:
            copy: list[str | Path] = [
                self._programs / "pg_basebackup",
                "-D",
                data,
                "-h",
                self._primary,
                "-U",
                "belljar",
                "-R",
            ]
            subprocess.run([*copy, "-c", "fast", "--no-sync"], check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
            return
        command: list[str | Path] = [self._programs / "initdb", "-D", data, "-U", "belljar", "-A", "trust"]
        subprocess.run(
            [*command, "-E", "UTF8", "--locale=C", "--no-instructions", "--no-sync"],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
        )
        with open(data / "postgresql.conf", "a", encoding="utf-8") as settings:
            settings.write("listen_addresses = ''\n")  # a test can say otherwise (ALTER SYSTEM)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0)


def _keep(folder: Path, programs: Path, uid: str, primary: str) -> None:
    """Leave the caller's family and its rights, then obey until its pipe ends."""
    if os.fork():
        os._exit(0)
    if uid:
        user = pwd.getpwuid(int(uid))
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    os.chdir(folder)
    keeper = _Keeper(folder, programs, primary)
    orders = {"start": keeper.start, "stop": keeper.stop, "kill": keeper.kill}
    try:
        for line in sys.stdin:
            print(orders[line.strip()](), flush=True)
    finally:
        keeper.kill()
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
