"""What the host ignores or holds back, because of how it was started itself, is no affair of its boxes.

`nohup` ignores SIGHUP, a shell SIGINT and SIGQUIT in what it puts in the background, some supervisors SIGCHLD; a host
with threads may block signals. All of this is inherited by programs, unless they are started with care.
"""

from __future__ import annotations

import sys

from tests.integration.support import Jar, Outcome

# A parent that could not be odder: all is ignored, and all is blocked.
ODD = """\
import os, signal, sys
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execvp(sys.argv[1], sys.argv[1:])
"""
LOOK = """\
import signal
ignored = [number for number in range(1, 65) if signal.getsignal(number) == signal.SIG_IGN]
FINAL([ignored, sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))])
"""


def oddly(jar: Jar, code: str, *options: str) -> Outcome:
    program = jar.file("odd.py", code)
    before = (sys.executable, "-c", ODD)
    return jar("exec", program, "--quiet", "--json", "--language", "python", *options, before=before)


def test_a_box_begins_with_the_same_signals_whatever_its_host_began_with(jar: Jar) -> None:
    _, usual = jar.exec_json(LOOK, "--language", "python")
    assert oddly(jar, LOOK).result["answer"] == usual["answer"]
    assert usual["answer"][1] == []


def test_a_cell_is_interrupted_though_the_host_blocks_signals(jar: Jar) -> None:
    policy = str(jar.policy('[limits]\ncell_wall = "3 s"'))
    result = oddly(jar, "import time\ntime.sleep(300)", "--policy", policy).result
    assert result["status"] == "timeout"
    assert "KeyboardInterrupt" in result["error"]["traceback"]
