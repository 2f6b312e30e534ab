"""Where the command `belljar` starts: it can be stopped before anything else is loaded.

Loading the program takes some tenths of a second, and nothing is under way yet. A signal that comes then is answered in
its handler, with one line and the exit code: an exception in the middle of an import could be swallowed by the module
being loaded, or printed as its error. A command that has something to close takes the signals over
(`belljar.cli.loop`). This module is outside the package, because importing from a package loads its `__init__`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType

__all__ = ["EXIT_SIGNAL", "SIGNALS", "leave", "listen", "main"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# As a shell reports a program that a signal ended: 130 for Ctrl-C.
EXIT_SIGNAL = 128
# Clears a live line and shows the cursor that it hid.
_TERMINAL = b"\r\x1b[K\x1b[?25h"
_NOTHING = "nothing was under way"


def main() -> None:
    """The command `belljar`."""
    listen()
    _fill_standard_descriptors()
    from belljar.cli import main as command

    command()


def listen() -> None:
    """Stop at once on a signal, except for those that our parent has switched off (nohup)."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def leave(number: int, message: str) -> None:
    """End this process now, without closing anything."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    _write(2, (_TERMINAL if os.isatty(2) else b"") + f"belljar: interrupted: {message}\n".encode())
    if "--json" in sys.argv:
        document = '{"schema_version": 1, "status": "killed", "error": {"culprit": "interrupted", "message": "%s"}}\n'
        _write(1, (document % message).encode())
    os._exit(EXIT_SIGNAL + number)


def _stop(number: int, _: FrameType | None) -> None:
    leave(number, _NOTHING)


def _write(descriptor: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody listens
        os.write(descriptor, data)


def _fill_standard_descriptors() -> None:
    """A closed one's number would go to the next file that is opened, and `print` would write into that."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    if sys.stderr is None:  # which `print` would take for stdout
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 (for as long as we live)
