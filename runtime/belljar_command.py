"""Where the command `belljar` begins: it can be stopped before anything else is loaded.

To load the program takes some tenths of a second, and nothing is under way in them. Whoever stops it then is answered
from the signal's handler itself, with one line and the exit code: an exception in the middle of an import could be
swallowed by what is being loaded, or printed as somebody's error. A command that has something to close takes the
signals over (`belljar.cli.loop`). This module is not in the package, because to import from a package loads its front.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType

__all__ = ["EXIT_SIGNAL", "SIGNALS", "leave", "listen", "main"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# As a shell says it of a program that a signal has ended: 130 for Ctrl-C.
EXIT_SIGNAL = 128
# What a live line has hidden, and the line itself.
_TERMINAL = b"\r\x1b[K\x1b[?25h"
_NOTHING = "nothing was under way"


def main() -> None:
    """The command `belljar`."""
    listen()
    _fill_standard_descriptors()
    from belljar.cli import main as command

    command()


def listen() -> None:
    """Stop at once when told to, but for signals that whoever started us has switched off (nohup)."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def leave(number: int, message: str) -> None:
    """End this process now, with nothing of it closed."""
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
    """What is closed would be the number of the next file that is opened, and whoever prints would write into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    if sys.stderr is None:  # to which `print` says stdout
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 (for as long as we live)
