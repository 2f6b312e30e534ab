"""What reaches a user of the command line, whatever stdout is: the result, where it is if it could not be written, and
the few lines on stderr that say what a run met and took."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from belljar.state import State
from tests.integration.support import BELLJAR, PATIENCE_S, Jar, Outcome, until

PAID = "print('chatter')\nFINAL('the answer: ' + llm_query('which city?'))"
ANSWER = "the answer: Zürich"


def model(jar: Jar) -> str:
    return jar.script(rest='default = "Zürich"\n')


def to(where: str) -> tuple[str, ...]:
    """What stands before a command, so that a shell opens its stdout so."""
    return ("sh", "-c", f'exec "$0" "$@" {where}')


def paid(jar: Jar, *arguments: str | Path, before: tuple[str, ...] = (), env: dict[str, str] | None = None) -> Outcome:
    program = jar.file("program.py", PAID)
    return jar("exec", program, "--model", model(jar), "--quiet", *arguments, before=before, env=env)


def piped(jar: Jar, stdout: int, *arguments: str | Path) -> tuple[int, str]:
    """A command with its stdout on an open descriptor: its exit code and what stood on stderr."""
    words = [BELLJAR, *map(str, arguments)]
    done = subprocess.run(
        words, stdout=stdout, stderr=subprocess.PIPE, text=True, env=jar.environ(), timeout=PATIENCE_S, check=False
    )
    return done.returncode, done.stderr


def kept(jar: Jar) -> list[dict[str, Any]]:
    """The results that could not be written to stdout. Nobody else may read them."""
    folder = State(jar.at).results
    if not folder.exists():
        return []
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} <= {0o600}
    return [json.loads(path.read_text()) for path in folder.iterdir()]


# ---------------------------------------------------------------------------------------------------- no result is lost


@pytest.mark.parametrize("encoding", ["ascii", "latin-1:strict", "ascii:surrogateescape"])
def test_what_an_encoding_has_not_is_escaped(jar: Jar, encoding: str) -> None:
    program = jar.file("program.py", "print('\\u2192 \\ud800')\nFINAL('Zürich \\u20ac')")
    words = [BELLJAR, "exec", str(program), "--quiet"]
    env = jar.environ({"PYTHONIOENCODING": encoding})
    done = subprocess.run(words, capture_output=True, env=env, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"\\u2192 ")
    assert done.stdout.endswith(b" \\u20ac\n")
    assert (b"Z\xfcrich" if encoding.startswith("latin") else b"Z\\xfcrich") in done.stdout


def test_a_closed_stdout_is_refused_before_anything_is_spent(jar: Jar) -> None:
    outcome = paid(jar, before=to(">&-"))
    assert outcome.code == 10
    assert (
        outcome.stderr
        == "belljar: refused: stdout is closed, so nothing was started: leave it open, or redirect it to a file\n"
    )
    assert not jar.journal.exists()


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_a_full_disk_behind_stdout_loses_no_result(jar: Jar, form: tuple[str, ...]) -> None:
    outcome = paid(jar, *form, before=to("> /dev/full"))
    (finished,) = jar.records("run.finished")
    found = kept(jar)
    assert (outcome.code, len(found)) == (10, 1)
    assert outcome.stderr == (
        "belljar: output: stdout cannot be written (No space left on device): the result of run "
        f"{finished.run} is in {jar.at}/results/{finished.run}.json\n"
    )
    assert (found[0]["run"], found[0]["status"], found[0]["answer"]) == (finished.run, "ok", ANSWER)
    assert found[0]["stdout"] == "chatter\n"


def test_where_nothing_can_be_kept_the_answer_goes_to_stderr(jar: Jar) -> None:
    jar.file("../state/results", "in the way")
    outcome = paid(jar, before=to("> /dev/full"))
    assert outcome.code == 10
    assert "follows" in outcome.complaint
    assert outcome.stderr.splitlines()[1:] == [ANSWER]


@pytest.mark.parametrize("asks", [True, False])
def test_a_reader_that_has_gone_is_named_and_what_was_paid_is_kept(jar: Jar, asks: bool) -> None:
    program = jar.file("program.py", PAID if asks else "FINAL('free')")
    read, write = os.pipe()
    os.close(read)
    try:
        code, stderr = piped(jar, write, "exec", program, "--model", model(jar), "--quiet")
    finally:
        os.close(write)
    (finished,) = jar.records("run.finished")
    assert (code, stderr.count("\n")) == (10, 1)
    assert finished.run in stderr
    assert [result["answer"] for result in kept(jar)] == ([ANSWER] if asks else [])


def test_a_list_whose_reader_has_gone_says_nothing(jar: Jar) -> None:
    jar.exec("print(1)")
    read, write = os.pipe()
    os.close(read)
    try:
        assert piped(jar, write, "audit", "ls") == (10, "")
    finally:
        os.close(write)
    outcome = jar("audit", "ls", before=to("> /dev/full"))
    assert (outcome.code, outcome.stderr.count("\n")) == (10, 1)
    assert "No space left on device" in outcome.complaint


def test_a_stdout_that_does_not_block_gets_all(jar: Jar) -> None:
    program = jar.file("program.py", "print('x' * 500_000)")
    read, write = os.pipe()
    os.set_blocking(write, False)
    got = bytearray()

    def take() -> None:
        while data := os.read(read, 1000):
            got.extend(data)

    reader = threading.Thread(target=take)
    reader.start()
    try:
        code, stderr = piped(jar, write, "exec", program, "--quiet")
    finally:
        os.close(write)
        reader.join()
        os.close(read)
    assert (code, stderr, len(got)) == (0, "", 500_001)


@pytest.mark.parametrize("where", ["2>&-", "2> /dev/full"])
def test_what_happens_to_stderr_costs_no_result(jar: Jar, where: str) -> None:
    program = jar.file("program.py", PAID)
    outcome = jar("exec", program, "--model", model(jar), before=to(where))
    assert (outcome.code, outcome.stdout) == (0, f"chatter\n{ANSWER}\n")


def test_no_file_takes_the_number_of_a_closed_stream(jar: Jar) -> None:
    closed = jar("exec", jar.file("program.py", "print('seen')"), before=to("<&- 2>&-"))
    assert (closed.code, closed.stdout, closed.stderr) == (0, "seen\n", "")


def test_a_closed_stdin_is_an_empty_one(jar: Jar) -> None:
    program = jar.file("program.py", "print('seen')")
    for words in (("exec", program, "--context", "-"), ("context", "add", "-")):
        closed = jar(*words, before=to("<&-"))
        assert (closed.code, closed.stderr.count("\n")) == (2, 1)
        assert "the input is empty" in closed.complaint
    closed = jar("chat", "--context", program, "--model", model(jar), "--quiet", before=to("<&-"))
    assert (closed.code, closed.stderr) == (0, "")


def test_what_is_printed_to_a_closed_stdout_is_not_there(jar: Jar) -> None:
    run = jar.exec_json("print(1)")[1]["run"]
    for words in (
        ("policy", "show"),
        ("audit", "show", run),
        ("audit", "export", run, "--format", "html"),
        ("audit", "ls"),
    ):
        closed = jar(*words, before=to(">&-"))
        assert (closed.code, closed.stderr) == (0, "")


# -------------------------------------------------------------------------------------------- what a run met, and took


def test_cut_output_is_told_with_its_numbers(jar: Jar) -> None:
    policy = jar.policy('[limits]\noutput = "1 KiB"')
    outcome, result = jar.exec_json("print('x' * 4999)", "--policy", policy)
    assert (outcome.code, result["truncated"], result["output_bytes"]) == (0, True, 5000)
    assert outcome.stderr == (
        "belljar: output: only the beginning and the end of 5000 bytes are kept: print less, or use a policy "
        "with a larger `output` under [limits]\n"
    )
    whole, result = jar.exec_json("print('x' * 999)", "--policy", policy)
    assert (whole.stderr, result["truncated"], result["output_bytes"]) == ("", False, 1000)


def test_the_last_line_off_a_terminal_is_true_and_names_the_run(jar: Jar) -> None:
    price = "[price]\ninput_usd_per_mtok = 1000\noutput_usd_per_mtok = 1000\n"
    asking = jar.script(rest=f'default = "yes"\n{price}')
    program = jar.file("program.py", "for n in range(20): llm_query('?')\nprint(context[0:4])")
    outcome = jar("exec", program, "--model", asking, "--context", jar.file("context.txt", "text"))
    (finished,) = jar.records("run.finished")
    last = outcome.stderr.splitlines()[-1]
    cost_usd = finished.data["cost_nanousd"] / 1e9
    assert cost_usd > 0.01
    assert last == (f"belljar: run {finished.run}: ok · cell 1 · 20 queries · 1 reads (0.0 MB) · {cost_usd:.4f} USD")
    assert "turn 0" not in outcome.stderr


def test_the_last_line_of_a_run_counts_its_turns_and_quiet_has_none(jar: Jar) -> None:
    script = jar.script("```repl\nprint(1)\n```", "```repl\nFINAL(2)\n```")
    loud = jar("run", "What?", "--model", script, "--json")
    last = loud.stderr.splitlines()[-1]
    assert last.startswith(f"belljar: run {loud.result['run']}: ok · turn 2 · cell 2 · ")
    assert jar("run", "What?", "--model", script, "--quiet").stderr == ""


@pytest.mark.parametrize("language", ["restricted", "python"])
def test_a_limit_is_told_with_both_numbers(jar: Jar, language: str) -> None:
    policy = jar.policy('[limits]\nmemory = "96 MiB"')
    outcome = jar.exec("x = []\nwhile True: x.append('y' * 1_000_000)", "--policy", policy, "--language", language)
    assert outcome.code == 6
    assert outcome.complaint.startswith("belljar: the program: memory: ")
    assert "(limits.memory: limit 96 MiB, observed " in outcome.complaint
    assert outcome.complaint.endswith(" MiB)")


def test_a_deadline_is_told_in_seconds(jar: Jar) -> None:
    outcome = jar.exec("while True: pass", "--policy", jar.policy('[limits]\ngrace = "500 ms"\ncell_wall = "1500 ms"'))
    assert "(limits.cell_wall: limit 1.5 s, observed " in outcome.complaint


@pytest.mark.parametrize("language", ["restricted", "python"])
def test_code_that_does_not_compile_is_told_once(jar: Jar, language: str) -> None:
    outcome = jar.exec("x = 1\nx = = 2\n", "--language", language)
    assert outcome.complaint.startswith("belljar: the program: rejected: ")
    assert outcome.stderr.count("invalid syntax") == 1


def test_the_last_run_can_be_named_last(jar: Jar) -> None:
    context = jar.file("context.txt", "x" * 100_000)
    assert jar("audit", "show", "last", "--json").code != 0
    jar.exec("print(1)")
    _, result = jar.exec_json("print(context[0:2])", "--context", context)
    for command in ("show", "coverage"):
        assert jar("audit", command, "last", "--json").document["run"] == result["run"]
    covered = jar("audit", "coverage", "last", "--json").document["coverage"]
    assert 0 < covered["read_share"] < 1
    assert covered["read_share"] == result["coverage"]["read_share"]
    assert covered["documents"][0]["shown_share"] == 0.0


def test_numbers_in_a_document_say_their_unit(jar: Jar) -> None:
    asking = jar.script(rest='default = "yes"\n[price]\ninput_usd_per_mtok = 3\noutput_usd_per_mtok = 15\n')
    _, result = jar.exec_json("llm_query('?')", "--model", asking)
    assert result["cost_nanousd"] == result["cost"] > 0
    counts = {"cells", "turns", "reads", "queries", "cost"}
    units = ("_s", "_bytes", "_nanousd")
    numbers = {name for name, value in result.items() if type(value) in (int, float)}
    assert {name for name in numbers - counts if not name.endswith(units)} == set()


# ------------------------------------------------------------------------------------------------------ on a terminal


def test_on_a_terminal_something_is_seen_before_the_box_is_there(jar: Jar) -> None:
    master, slave = pty.openpty()
    words = [BELLJAR, "exec", str(jar.file("program.py", "print('x')")), "--language", "python"]
    env = jar.environ({"TERM": "xterm", "COLUMNS": "100"})
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=slave, stdin=subprocess.DEVNULL, env=env)
    os.close(slave)
    seen = bytearray()

    def look() -> bool:
        while select.select([master], [], [], 0)[0]:
            try:
                seen.extend(os.read(master, 65536))
            except OSError:  # how a terminal says that its last writer has gone
                return True
        return process.poll() is not None

    try:
        until(look, what="the command ends")
        stdout, _ = process.communicate(timeout=PATIENCE_S)
        look()
    finally:
        process.kill()
        os.close(master)
    assert (process.returncode, stdout) == (0, b"x\n")
    shown = seen.decode()
    assert shown.index("starting") < shown.index("belljar: run ")
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


# What steers a terminal, or is not seen: an escape, C1, DEL, a bidirectional override, a line end, a selector.
_STEERS = "\x1b[31m\x9b\x7f\u202e\u2028\ufe0f"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_nothing_that_is_printed_steers_a_terminal(jar: Jar, stream: str) -> None:
    folder = jar.work / _STEERS
    folder.mkdir()
    (folder / "x.py").write_text("print(1)")
    commands: dict[str, list[tuple[str | Path, ...]]] = {
        "stdout": [
            ("config", "show", "--state", folder),
            ("state", "check", "--state", folder),
            ("init", folder / "made.toml"),
        ],
        "stderr": [
            ("exec", folder / "x.py", _STEERS),
            (_STEERS,),
            ("config", "show", f"--{_STEERS}"),
            ("audit", "ls", "--state", folder / "x.py"),
        ],
    }
    for words in commands[stream]:
        shown = _on_a_terminal(jar, *words, stream=stream)
        assert "\\x1b[31m\\x9b\\x7f\\u202e\\u2028\\ufe0f" in shown
        assert not {char for char in shown if not char.isprintable() and char not in "\r\n"}
        assert "\ufe0f" not in shown


def _on_a_terminal(jar: Jar, *words: str | Path, stream: str) -> str:
    """What a command writes there, where this stream of it is a terminal."""
    master, slave = pty.openpty()
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    streams[stream] = slave
    try:
        subprocess.run([BELLJAR, *map(str, words)], **streams, env=jar.environ(), timeout=PATIENCE_S, check=False)
    finally:
        os.close(slave)
    seen = bytearray()
    with open(master, "rb", buffering=0) as terminal, contextlib.suppress(OSError):  # its last writer has gone
        while data := terminal.read(65536):
            seen.extend(data)
    return seen.decode()
