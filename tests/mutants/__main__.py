"""`python -m tests.mutants [NAME...]`: applies each mutant, alone, and demands that its test fails.

Nothing is changed in the checkout. All of it is copied, into a temporary folder, with a virtual environment of its own
whose path begins with the copy: so the copy's code is what runs, in the test, in every process that it starts, and in
the box image that it makes. Two mutants are judged at a time (`--jobs`), each in a copy that no other is in. For each:

    the test runs as it is     it must pass, else its failure would say nothing   (once for each test)
    the mutation is applied
    the test runs again        it must fail, and by an assertion of its own
    the file is put back

A mutant is *killed* when the test failed so, has *survived* when it passed, and is *broken* when nothing is known: the
test did not pass before, was skipped, could not be collected, took too long, or ended in an accident (a NameError, a
failed fixture). Anything but killed makes the exit status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Literal

import msgspec

from tests.architecture.test_style import FILES
from tests.mutants.mutant import ROOT, Malformed, Mutant, load_all

# More than a test may take by itself (pyproject.toml).
SECONDS_MAX = 330
Fate = Literal["killed", "survived", "broken"]
# How a test says that something is not so: by an assertion or exception of its own, by what it expected to be raised,
# or by an error of ours that it did not expect. Everything else is an accident.
_VERDICT = re.compile(
    r'(?:failed on (?:setup|teardown) with ")?'
    r"(?:AssertionError|assert |Failed: (?!Timeout)|tests\.|belljar\.errors\.|ExceptionGroup: Hypothesis)"
)
# Written in one second and equally long, two versions of a file are one to the bytecode cache.
_mtimes = itertools.count(int(time.time()))


class Run(msgspec.Struct, frozen=True):
    """How one run of one test ended: `passed`, `failed` by a verdict, or neither, and then why."""

    passed: bool
    failed: bool
    why: str


class Verdict(msgspec.Struct, frozen=True):
    """What became of a mutant."""

    mutant: Mutant
    fate: Fate
    why: str
    seconds: float


class Copy:
    """A copy of the project, with an interpreter that takes everything of ours from it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        for path in FILES:
            target = self.root / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
        self._python = self.root / ".venv" / "bin" / "python"
        self._make_environment()
        self._folder = folder
        self._report = folder / "report.xml"

    def _make_environment(self) -> None:
        """Its packages are this interpreter's, but what is installed in place (editable) is the copy's."""
        folder = self.root / ".venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        (packages,) = folder.glob("lib/python*/site-packages")
        ours = [str(self.root / "runtime"), *(path for path in sys.path if path.endswith("-packages"))]
        (packages / "copy.pth").write_text("\n".join(ours) + "\n")
        command = folder / "bin" / "belljar"
        command.write_text(f"#!{self._python}\nimport sys\nfrom belljar_command import main\nsys.exit(main())\n")
        command.chmod(0o755)

    def check(self) -> None:
        """That it is the copy which runs: otherwise every mutant would survive."""
        code = "import belljar, sys; print(belljar.__file__)"
        said = subprocess.run(
            [str(self._python), "-c", code], capture_output=True, text=True, check=True, cwd="/"
        ).stdout
        assert said.startswith(str(self.root)), said

    @contextlib.contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """While it lasts the mutation is applied. Raises Malformed."""
        path = self.root / mutant.file
        whole, mutated = path.read_text(encoding="utf-8"), mutant.applied(self.root)
        try:
            self._write(path, mutated)
            yield
        finally:
            self._write(path, whole)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        moment = next(_mtimes)
        os.utime(path, (moment, moment))

    def run(self, test: str) -> Run:
        """One run of one test, in a session of its own, that ends after `SECONDS_MAX` whatever happens."""
        self._report.unlink(missing_ok=True)
        options = ["-x", "-q", "-p", "no:cacheprovider", f"--junitxml={self._report}", "-o", "junit_logging=no"]
        process = subprocess.Popen(
            [str(self._python), "-m", "pytest", *options, test],
            cwd=self.root,
            env={**os.environ, "BELLJAR_TEST_IMAGES": str(self._images())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            return Run(False, False, f"not over after {SECONDS_MAX} s")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        return self._read(process.returncode, said)

    def _images(self) -> Path:
        """Where box images are kept between runs, because to make one takes longer than most tests do.

        In there an image is named by what went into it; which recipe made it, says the folder.
        """
        recipe = (self.root / "runtime/belljar/sandbox/image.py").read_bytes()
        return self._folder / f"images-{zlib.crc32(recipe):08x}"

    def _read(self, code: int, said: str) -> Run:
        if not self._report.is_file():
            return Run(False, False, _one_line(f"pytest ended with {code} and no report: {said.strip()[-150:]}"))
        cases = list(ET.parse(self._report).getroot().iter("testcase"))
        wrong = [child for case in cases for child in case if child.tag in ("failure", "error")]
        if wrong:
            message = wrong[0].get("message", "")
            return Run(False, bool(_VERDICT.match(message)), _one_line(message))
        ran = [case for case in cases if case.find("skipped") is None]
        return Run(code == 0 and bool(ran), False, "passed" if ran else "nothing ran: skipped, or no such test")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def judge(copy: Copy, mutant: Mutant, before: dict[str, Run]) -> Verdict:
    """Run the mutant's test without it, if nobody has, and with it."""
    started = time.monotonic()

    def verdict(fate: Fate, why: str) -> Verdict:
        return Verdict(mutant, fate, why, time.monotonic() - started)

    try:
        if mutant.test not in before:
            before[mutant.test] = copy.run(mutant.test)
        if not before[mutant.test].passed:
            return verdict("broken", f"without the mutation: {before[mutant.test].why}")
        with copy.mutated(mutant):
            run = copy.run(mutant.test)
    except Malformed as error:
        return verdict("broken", str(error))
    if run.passed:
        return verdict("survived", mutant.what)
    return verdict("killed" if run.failed else "broken", run.why)


def chosen(names: list[str]) -> list[Mutant]:
    """All of them, or those named. Raises Malformed for a name that is none's."""
    mutants = {mutant.name: mutant for mutant in load_all()}
    if unknown := sorted(set(names) - set(mutants)):
        raise Malformed(f"there is no mutant called {', '.join(unknown)}")
    return [mutant for name, mutant in mutants.items() if not names or name in names]


def report(verdicts: list[Verdict]) -> None:
    """The sums, and again whatever is not as it should be."""
    fates: tuple[Fate, ...] = ("killed", "survived", "broken")
    sums = {fate: [one for one in verdicts if one.fate == fate] for fate in fates}
    print("\n" + ", ".join(f"{len(ones)} {fate}" for fate, ones in sums.items()))
    for one in [*sums["survived"], *sums["broken"]]:
        print(f"  {one.fate}: {one.mutant.name} ({one.mutant.test})\n      {one.why}")


def judge_all(folder: Path, mutants: list[Mutant], jobs: int) -> Iterator[Verdict]:
    """The verdicts as they come, from `jobs` copies below `folder`; when left early, the rest is not begun."""
    copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    for number in range(min(jobs, len(mutants))):
        copy = Copy(folder / str(number))
        copy.check()
        copies.put(copy)
    before: dict[str, Run] = {}

    def judged(mutant: Mutant) -> Verdict:
        copy = copies.get()
        try:
            return judge(copy, mutant, before)
        finally:
            copies.put(copy)

    pool = futures.ThreadPoolExecutor(jobs)
    try:
        yield from (done.result() for done in futures.as_completed([pool.submit(judged, one) for one in mutants]))
    finally:
        pool.shutdown(cancel_futures=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a mutant's file name without .toml; none is all")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="so many at a time (2)")
    asked = parser.parse_args()
    try:
        mutants = chosen(asked.names)
    except Malformed as error:
        parser.error(str(error))
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="belljar-mutants-") as folder:
        for one in judge_all(Path(folder), mutants, max(1, asked.jobs)):
            verdicts.append(one)
            print(f"{one.fate:8}  {one.mutant.name:40} {one.seconds:6.1f} s  {one.why}", flush=True)
    report(verdicts)
    return int(any(one.fate != "killed" for one in verdicts))


if __name__ == "__main__":
    sys.exit(main())
