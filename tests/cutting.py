"""A way to a PostgreSQL server that can be cut at a chosen message, before or after that has reached the server."""

from __future__ import annotations

import contextlib
import queue
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

__all__ = ["Cutter", "Where"]

# `late`: the message arrives when the test says so, long after its sender was cut off.
Where = Literal["before", "after", "late"]

ANSWER_S = 30.0


class Cutter:
    """Passes on what both sides say. Use it as a context manager, and `folder` as where the server's socket is."""

    def __init__(self, server: Path) -> None:
        self._server = server
        self.folder = Path(tempfile.mkdtemp(prefix="belljar-cut-", dir="/tmp"))
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.folder / server.name))
        self._listener.listen()
        self._wanted: tuple[Where, Callable[[bytes], bool]] | None = None
        self._open: list[socket.socket] = []
        self.cuts = 0
        # What becomes of each message on its way to the server.
        self.change: Callable[[bytes], bytes] = lambda message: message
        self._late: tuple[socket.socket, bytes] | None = None
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        shutil.rmtree(self.folder)

    def cut(self, where: Where, at: Callable[[bytes], bool] = lambda _: True) -> None:
        """Cut the next connection that sends a message of which `at` is true."""
        self._wanted = (where, at)

    def deliver(self) -> bytes:
        """Let the late message arrive. Returns what the server answers to it."""
        assert self._late is not None
        server, message = self._late
        server.sendall(message)
        return self._answers.get(timeout=ANSWER_S)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                self._open += [client, server]
                try:
                    server.connect(str(self._server))
                except OSError:
                    client.close()
                    continue
                for work in (self._ask, self._answer):
                    threading.Thread(target=work, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while message := client.recv(1 << 20):
                wanted = self._wanted
                if wanted is not None and wanted[1](message):
                    self._wanted = None
                    self._cut(wanted[0], client, server, message)
                    return
                server.sendall(self.change(message))
            server.shutdown(socket.SHUT_RDWR)

    def _cut(self, where: Where, client: socket.socket, server: socket.socket, message: bytes) -> None:
        self.cuts += 1
        match where:
            case "before":
                client.shutdown(socket.SHUT_RDWR)
                server.shutdown(socket.SHUT_RDWR)
            case "after":
                # The server has it all, and may be at work; its answer finds nobody.
                client.shutdown(socket.SHUT_RDWR)
                server.sendall(message)
                server.shutdown(socket.SHUT_WR)
            case "late":
                self._late = (server, message)
                client.shutdown(socket.SHUT_RDWR)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while answer := server.recv(1 << 20):
                if self._late is not None and self._late[0] is server:
                    self._answers.put(answer)
                else:
                    client.sendall(answer)
            client.shutdown(socket.SHUT_RDWR)
