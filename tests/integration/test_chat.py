"""`belljar chat`: questions from a pipe and from a terminal, with a scripted model."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess

from tests.integration.support import BELLJAR, PATIENCE_S, Jar, until

TURNS = """\
[[turn]]
text = '''
```repl
n = len(context)
FINAL(n)
```
'''
[[turn]]
text = '''
```repl
print("here")
while True: pass
```
'''
[[turn]]
text = '''
```repl
FINAL(n + 1)
```
'''
"""


def started(jar: Jar, stdin: int) -> subprocess.Popen[str]:
    jar.file("turns.toml", TURNS)
    jar.file("text.txt", "abc")
    return subprocess.Popen(
        [BELLJAR, "chat", "--context", "text.txt", "--model", "scripted:turns.toml", "--state", str(jar.at)],
        cwd=jar.work,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_cancels_the_question_and_not_the_session(jar: Jar) -> None:
    ours, theirs = pty.openpty()
    process = started(jar, theirs)
    os.close(theirs)
    try:
        assert process.stdout is not None
        os.write(ours, b"How long?\n")
        assert process.stdout.readline() == "3\n"
        os.write(ours, b"For ever?\n")
        until(lambda: len(jar.records("cell.started")) == 3, what="the second question runs its code")
        process.send_signal(signal.SIGINT)
        os.write(ours, b"\nAnd one more?\n")
        assert process.stdout.readline() == "4\n"
        os.write(ours, b"\x04")
        _, told = process.communicate(timeout=PATIENCE_S)
    finally:
        os.close(ours)
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "the question was cancelled; the session goes on" in told
    assert "1 turns, 1 calls, 0.0000 USD" in told
    assert [record.data["status"] for record in jar.records("run.finished")] == ["ok"]


def test_an_answer_that_cannot_be_written_is_kept(jar: Jar) -> None:
    jar.file("turns.toml", TURNS)
    jar.file("text.txt", "abc")
    questions = jar.file("questions", "How long?\nHow long?\n")
    shell = ("sh", "-c", f'exec "$0" "$@" < {questions} > /dev/full')
    outcome = jar("chat", "--context", "text.txt", "--model", "scripted:turns.toml", "--quiet", before=shell)
    (kept,) = (jar.at / "results").glob("*-answer.json")
    assert (outcome.code, json.loads(kept.read_text())["answer"]) == (10, 3)
    assert outcome.stderr == (
        f"belljar: output: stdout cannot be written (No space left on device): the answer is in {kept}\n"
    )
    (finished,) = jar.records("run.finished")
    assert kept.name == f"{finished.run}-answer.json"


def test_a_stdin_that_cannot_be_read_is_told(jar: Jar) -> None:
    jar.file("turns.toml", TURNS)
    jar.file("text.txt", "abc")
    shell = ("sh", "-c", 'exec "$0" "$@" 0> written')
    outcome = jar("chat", "--context", "text.txt", "--model", "scripted:turns.toml", "--quiet", before=shell)
    assert (outcome.code, outcome.stderr.count("\n")) == (2, 1)
    assert "stdin cannot be read (Bad file descriptor)" in outcome.complaint


def test_the_end_of_a_pipe_ends_the_session(jar: Jar) -> None:
    process = started(jar, subprocess.PIPE)
    out, _ = process.communicate("How long?", timeout=PATIENCE_S)
    assert (out, process.returncode) == ("3\n", 0)
