"""How tests wait: for a state, and for no time that a busy machine could need."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import hypothesis

from tests.architecture.test_style import ROOT, SOURCES, shown

# A bound on the wall clock fails on a machine that others keep busy. What ends a test that hangs is `PATIENCE_S`.
HURRIES = (
    re.compile(r"assert .*(?:monotonic|perf_counter|\btime\.time)\(\) - \w+ <"),
    re.compile(r"assert .*(?:wall_s|seconds)(?:\"\])? < \d{1,2}(?!\d)"),
    re.compile(r"deadline=(?!None)[^,)]*\)\s*\n@given"),
)
SHORT_WAIT_S = 30
WAITS = re.compile(r"(?:until|no_process_left|wait)\([^\n]*\bseconds=(\d+)")


def test_no_test_is_in_a_hurry() -> None:
    found = []
    for path in SOURCES:
        if path.is_relative_to(ROOT / "tests"):
            text = path.read_text("utf-8")
            found += [f"{shown(path)}: {match[0]}" for one in HURRIES for match in one.finditer(text)]
            waits = [match for match in WAITS.finditer(text) if 0 < int(match[1]) < SHORT_WAIT_S]
            found += [f"{shown(path)}: {match[0]}" for match in waits]
    assert found == []


def test_a_property_has_no_deadline() -> None:
    assert hypothesis.settings.default is not None
    assert hypothesis.settings.default.deadline is None


def test_the_processes_of_tests_begin_with_signals_as_usual() -> None:
    """Also where this one was told to ignore some of them: `nohup`, or the background of a shell."""
    code = "import signal; print([int(n) for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == f"{[int(signal.SIGPIPE), int(signal.SIGXFSZ)]}\n"
