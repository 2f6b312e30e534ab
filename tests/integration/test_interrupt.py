"""Runs that are stopped from outside: Ctrl-C, a service manager's SIGTERM, and SIGKILL, which nobody can handle.

In each the box dies at once, and the log and the books tell what happened: right away, or after the next start.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from belljar.audit import verify
from belljar.errors import AuditUnavailable, InvalidInput
from tests.integration.support import PATIENCE_S, Jar, Outcome, Running, no_process_left, processes_below, until

# Each reads a character of the context when it is where it should be stopped: that is seen in the log.
SLEEPS = "import time\ncontext[0:1]\ntime.sleep(300)"
# A program that does not want to stop.
STUBBORN = """\
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
context[0:1]
while True:
    try:
        time.sleep(300)
    except BaseException:
        pass
"""
FORKS = """\
import os, time
for _ in range(3):
    if os.fork() == 0:
        time.sleep(300)
context[0:1]
time.sleep(300)
"""
ASKS = "context[0:1]\nllm_query('a question that is not answered')"
# That of what is read is given back after five seconds in which nothing is: on a busy machine before anybody looks.
WITH_THE_QUERY_S = (1, 2)


class Provider:
    """A server that takes requests and never answers. `asked` is set when the first has arrived."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def environ(self) -> dict[str, str]:
        host, port = self._listener.getsockname()
        return {"ANTHROPIC_API_KEY": "none", "ANTHROPIC_BASE_URL": f"http://{host}:{port}"}

    def close(self) -> None:
        # Wakes `accept`, which closing alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for one in (self._listener, *self._open):
            one.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                if connection.recv(1):
                    self.asked.set()


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()


def started(jar: Jar, code: str, *arguments: str, env: dict[str, str] | None = None) -> Running:
    """`belljar exec`, up to the moment in which the program has read from the context."""
    program, context = jar.file("program.py", code), jar.file("context.txt", "text")
    options: tuple[str | Path, ...] = ("--context", context, "--quiet", "--language", "python", *arguments)
    running = jar.start("exec", program, *options, env=env)

    def has_read() -> bool:
        assert running.process.poll() is None, running.wait()
        # A log that is just being made is no log yet.
        with contextlib.suppress(AuditUnavailable, InvalidInput):
            return bool(jar.records("context.read"))
        return False

    until(has_read, what="the program runs")
    return running


def stop(running: Running, number: signal.Signals) -> Outcome:
    running.signal(number)
    return running.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("code", [SLEEPS, STUBBORN, FORKS], ids=["sleeps", "stubborn", "forks"])
def test_a_signal_ends_the_run_and_says_so(jar: Jar, code: str, number: signal.Signals) -> None:
    outcome = stop(started(jar, code), number)
    assert outcome.code == 128 + number
    assert outcome.complaint.startswith("belljar: interrupted: ")
    assert outcome.stderr.count("\n") == 1
    no_process_left()
    (finished,) = jar.records("run.finished")
    assert finished.data["status"] == "killed"


def test_an_interrupted_run_in_json_is_one_document(jar: Jar) -> None:
    outcome = stop(started(jar, SLEEPS, "--json"), signal.SIGINT)
    assert (outcome.code, outcome.document["error"]["culprit"]) == (130, "interrupted")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_while_a_model_is_asked_charges_what_may_have_been_spent(
    jar: Jar, provider: Provider, number: signal.Signals
) -> None:
    running = started(jar, ASKS, "--model", "claude-haiku-5-5", env=provider.environ)
    assert provider.asked.wait(PATIENCE_S)
    assert jar.open_reservations() in WITH_THE_QUERY_S
    outcome = stop(running, number)
    assert outcome.code == 128 + number
    assert [len(jar.records(f"query.{end}")) for end in ("requested", "failed", "completed")] == [1, 1, 0]
    (finished,) = jar.records("run.finished")
    assert (finished.data["status"], finished.data["calls"]) == ("killed", 1)
    spent = jar.spent()
    assert spent.calls == 1
    assert spent.cost_nanousd == finished.data["cost_nanousd"] > 0


def test_a_signal_while_the_root_model_is_asked(jar: Jar, provider: Provider) -> None:
    context = jar.file("context.txt", "text")
    running = jar.start("run", "What?", "--context", context, "--model", "claude-haiku-5-5", env=provider.environ)
    assert provider.asked.wait(PATIENCE_S)
    outcome = stop(running, signal.SIGINT)
    assert outcome.code == 130
    assert "belljar: interrupted: " in outcome.stderr
    assert jar.spent().calls == 1


@pytest.mark.parametrize("code", [SLEEPS, STUBBORN, FORKS], ids=["sleeps", "stubborn", "forks"])
def test_a_killed_host_takes_its_boxes_with_it(jar: Jar, code: str) -> None:
    jar.expect_unfinished = True
    running = started(jar, code)
    assert len(processes_below()) >= 3  # the command, its supervisor, the box
    assert stop(running, signal.SIGKILL).code == -signal.SIGKILL
    no_process_left()


def test_the_next_start_settles_what_a_killed_host_left(jar: Jar, provider: Provider) -> None:
    jar.expect_unfinished = True
    running = started(jar, ASKS, "--model", "claude-haiku-5-5", env=provider.environ)
    assert provider.asked.wait(PATIENCE_S)
    stop(running, signal.SIGKILL)
    no_process_left()
    assert jar.open_reservations() in WITH_THE_QUERY_S
    assert (jar.open_reservations(of_boxes=True) >= 2, jar.spent().calls) == (True, 0)
    report = verify(jar.journal)
    assert (report.problems, len(report.unfinished)) == ([], 1)

    assert jar.exec("print('next')").stdout == "next\n"
    assert (jar.open_reservations(), jar.open_reservations(of_boxes=True), jar.spent().calls) == (0, 0, 1)
    assert jar.spent().cost_nanousd > 0
    assert jar.records("run.abandoned")[0].data["charged"]["wall_ms"] >= 10_000  # the first portion
    assert verify(jar.journal).problems == []


def test_a_signal_before_anything_runs_is_clean_too(jar: Jar) -> None:
    context = jar.file("context.txt", "x" * 50_000_000)
    running = jar.start("exec", jar.file("program.py", "print(1)"), "--context", context, "--quiet")
    until(jar.state.contexts.exists, what="the context is taken in")
    assert stop(running, signal.SIGINT).code in (0, 130)


# ------------------------------------------------------------------------------------- before, after, and once more

# Stands for a module of ours or of others that is being loaded, where no exception should come from a signal.
LOADS = """
import os, pathlib, time
pathlib.Path("loading").touch()
try:
    time.sleep(300)
except BaseException:
    os._exit(77)
"""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("module", ["msgspec", "click"])
def test_a_signal_while_the_program_is_loaded_is_one_line(jar: Jar, module: str, number: signal.Signals) -> None:
    (jar.work / "shadows").mkdir()
    jar.file(f"shadows/{module}.py", LOADS)
    running = jar.start("doctor", env={"PYTHONPATH": str(jar.work / "shadows")})
    until((jar.work / "loading").exists, what="it is loaded")
    outcome = stop(running, number)
    assert (outcome.code, outcome.stdout) == (128 + number, "")
    assert outcome.stderr == "belljar: interrupted: nothing was under way\n"


def test_a_signal_while_the_program_is_loaded_is_one_document(jar: Jar) -> None:
    (jar.work / "shadows").mkdir()
    jar.file("shadows/msgspec.py", LOADS)
    running = jar.start("audit", "ls", "--json", env={"PYTHONPATH": str(jar.work / "shadows")})
    until((jar.work / "loading").exists, what="it is loaded")
    outcome = stop(running, signal.SIGINT)
    assert (outcome.code, outcome.document["status"], outcome.document["error"]["culprit"]) == (
        130,
        "killed",
        "interrupted",
    )


# What is stuck while it closes what it has.
STUCK = """
import asyncio
from belljar.cli.loop import Stopped, run_async

async def work():
    print("began", flush=True)
    while True:
        try:
            await asyncio.sleep(300)
        except asyncio.CancelledError:
            print("closing", flush=True)

run_async(work())
"""
# What comes when the work is over, and the loop is not.
LATE = """
import asyncio, os, signal, threading
from belljar.cli.loop import Stopped, run_async

async def work():
    over = threading.Event()
    asyncio.current_task().add_done_callback(lambda _: over.set())
    asyncio.get_running_loop().run_in_executor(None, lambda: over.wait() and os.kill(os.getpid(), signal.SIGINT))
    return "paid"

print(run_async(work()))
"""
# What comes while the interpreter ends: a module's last object is gone when handlers are no longer Python's.
LAST = """
import os, signal, sys
import belljar_command
from belljar.cli.loop import done

class Last:
    def __del__(self, kill=os.kill, me=os.getpid(), number=signal.SIGINT):
        kill(me, number)

belljar_command.listen()
last = Last()
print("paid", flush=True)
done(6)
sys.exit(6)
"""


@contextlib.contextmanager
def python(code: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            yield process
        finally:
            process.kill()


def test_who_is_stuck_while_closing_is_left_by_another_signal() -> None:
    with python(STUCK) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "began\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # the same wish: from the terminal, and passed on by a parent
        assert process.stdout.readline() == "closing\n"

        def ended() -> bool:
            process.send_signal(signal.SIGTERM)
            return process.poll() is not None

        until(ended, what="it ends")
        assert process.returncode == 128 + signal.SIGTERM
        assert process.stdout.read() == ""
        said = process.stderr.read()
        assert said == "belljar: interrupted: at once, because you asked twice; the next start settles the rest\n"


def test_a_signal_when_the_work_is_over_loses_no_result() -> None:
    with python(LATE) as process:
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stdout, stderr) == (0, "paid\n", "")


def test_a_signal_while_the_interpreter_ends_is_not_the_exit_code() -> None:
    with python(LAST) as process:
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stdout, stderr) == (6, "paid\n", "")


def test_a_command_that_outlives_its_terminal_is_not_stopped_by_its_end(jar: Jar) -> None:
    program, context = jar.file("program.py", SLEEPS), jar.file("context.txt", "text")
    words = ("exec", program, "--context", context, "--language", "python", "--quiet")
    running = jar.start(*words, before=("sh", "-c", 'trap "" HUP; exec "$0" "$@"'))
    until(lambda: jar.journal.exists() and processes_below(), what="it runs")
    running.signal(signal.SIGHUP)
    assert stop(running, signal.SIGTERM).code == 128 + signal.SIGTERM
