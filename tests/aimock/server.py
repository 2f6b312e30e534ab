"""A provider's mock on loopback: npm's `@copilotkit/aimock`, at the version and the digest in `package-lock.json`.

`make aimock` installs it into the virtual environment. It speaks the protocols of both of our adapters, plays fixtures,
and keeps a journal of what it was sent. It cannot do everything: no usage of a cache, no stop sequences, no error in
the middle of a stream. Tests of those have a server of their own (`test_anthropic_loopback.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

from tests.waiting import until

__all__ = ["AiMock", "Unavailable"]

PROGRAM = Path(sys.prefix, "aimock", "node_modules", "@copilotkit", "aimock", "dist", "cli.js")


class Unavailable(Exception):
    """There can be no mock here: says why, and the remedy."""


class AiMock:
    """A server that answers with fixtures, of which the first that matches counts. Use it as a context manager."""

    def __init__(self, folder: Path, *fixtures: dict[str, Any]) -> None:
        """
        Raises:
            Unavailable: it is not installed.
        """
        node = shutil.which("node")
        if node is None or not PROGRAM.is_file():
            raise Unavailable("run `make aimock`, which needs Node.js 20.15 or later")
        file = folder / "fixtures.json"
        file.write_text(json.dumps({"fixtures": fixtures}))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._journal = f"{self.url}/__aimock/journal"
        self._command = [node, str(PROGRAM), "-p", str(port), "-f", str(file), "--strict", "--validate-on-load"]

    def __enter__(self) -> Self:
        # A fixture for the second turn is not to be served in the first.
        environ = {"PATH": os.environ["PATH"], "AIMOCK_STRICT_TURN_INDEX": "1"}
        self._process = subprocess.Popen(
            self._command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            until(self._is_ready, what="the mock answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def journal(self) -> list[dict[str, Any]]:
        """What it was sent, in order: path, headers, body (in the form of Chat Completions), and the status given."""
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self._journal, timeout=30) as answer:
            entries: list[dict[str, Any]] = json.load(answer)
        return entries

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, "the mock ended"
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            return isinstance(self.journal, list)
        return False
