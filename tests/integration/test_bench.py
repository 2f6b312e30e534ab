"""`belljar bench` over real boxes: every case of every task, with the script and the oracle, and beside a model."""

from __future__ import annotations

import contextlib
import json
import signal
from typing import Any

import pytest

from belljar.errors import AuditUnavailable, InvalidInput
from tests.integration.support import Jar, until
from tests.integration.test_cli_output import to

TASKS = ("niah", "oolong", "pairs", "multihop", "code")


def solved(jar: Jar, task: str, tokens: int) -> dict[str, Any]:
    outcome = jar("bench", task, "--tokens", str(tokens), "--json", "--quiet")
    assert outcome.code == 0, outcome.stderr
    table = outcome.document
    assert {row["status"] for row in table["rows"]} == {"ok"}
    assert [row["case"] for row in table["rows"] if row["score"] != 1.0] == []
    assert table["score"] == 1.0
    assert table["direct_score"] is None
    return table


@pytest.mark.parametrize("task", TASKS)
def test_script_and_oracle_solve_every_case_and_the_output_says_who_they_are(jar: Jar, task: str) -> None:
    table = solved(jar, task, 2**13)
    assert table["scripted"] is True
    assert "script is the root model" in table["how"]
    assert all(row["queries"] > 0 and row["cost_nanousd"] > 0 for row in table["rows"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("task", TASKS)
def test_they_do_so_over_128_thousand_tokens(jar: Jar, task: str) -> None:
    solved(jar, task, 2**17)


def test_a_table_for_people_says_what_is_scripted(jar: Jar) -> None:
    outcome = jar("bench", "niah", "--case", "depth-13")
    assert outcome.code == 0, outcome.stderr
    assert "models: scripted: a script is the root model, an oracle" in outcome.stdout
    assert "\nscore 1.0000\n" in outcome.stdout
    assert "depth-39" not in outcome.stdout
    assert "belljar: case depth-13: ok, score 1.0000, run " in outcome.stderr


def test_a_model_is_measured_beside_its_direct_call(jar: Jar) -> None:
    """One that answers with the wrong number directly, and with the right one through its program."""
    case = ("bench", "niah", "--case", "depth-0", "--json", "--quiet")
    code = 'import re\nFINAL(re.search(r"is: ([0-9]{7})", context[:300]).group(1))'
    model = jar.script(f"I look.\n```repl\n{code}\n```", rest='default = "1234567"\n')
    (row,) = jar(*case, "--model", model).document["rows"]
    assert (row["score"], row["direct"]["score"], row["direct"]["note"]) == (1.0, 0.0, "")
    asked = [record.data for record in jar.records("query.requested") if record.run == row["direct"]["run"]]
    assert len(asked) == 1


def test_a_text_that_is_too_long_for_a_prompt_is_noted_and_the_run_counts(jar: Jar) -> None:
    policy = jar.policy('[models]\nprompt = "64 KiB"')
    model = jar.script('I give up.\n```repl\nFINAL("nothing")\n```', rest='default = "no"\n')
    case = ("--case", "depth-0", "--tokens", "32768", "--policy", policy)
    outcome = jar("bench", "niah", *case, "--model", model, "--json", "--quiet")
    (row,) = outcome.document["rows"]
    assert (outcome.code, row["status"], row["score"]) == (0, "ok", 0.0)
    assert row["direct"]["score"] == 0.0
    assert "prompt" in row["direct"]["note"]


def test_a_run_that_fails_decides_the_exit_code_and_has_its_row(jar: Jar) -> None:
    outcome = jar("bench", "niah", "--case", "depth-0", "--model", jar.script("I have no idea."), "--json", "--quiet")
    (row,) = outcome.document["rows"]
    assert (outcome.code, row["status"], row["score"]) == (7, "model_failed", 0.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("niah", "--case", "depth-1"), "there is no case depth-1: give one of depth-0, "),
        (("niah", "--sub-model", "claude-haiku-5-5"), "--sub-model needs --model"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_started(
    jar: Jar, arguments: tuple[str, ...], words: str
) -> None:
    outcome = jar("bench", *arguments)
    assert outcome.code == 2
    assert words in outcome.complaint
    assert not jar.journal.exists()


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_a_full_disk_behind_stdout_loses_no_table(jar: Jar, form: tuple[str, ...]) -> None:
    outcome = jar("bench", "niah", "--case", "depth-0", "--quiet", *form, before=to("> /dev/full"))
    (path,) = (jar.at / "results").iterdir()
    assert outcome.code == 10
    why = "stdout cannot be written (No space left on device)"
    assert outcome.stderr == f"belljar: output: {why}: the table is in {path}\n"
    assert (json.loads(path.read_text())["score"], path.stat().st_mode & 0o777) == (1.0, 0o600)


# Solves the first case, and never ends in the second.
FIRST_ALONE = """
import re
found = re.search(r"is: ([0-9]{7})", context[:300])
while not found:
    pass
FINAL(found.group(1))
"""


@pytest.mark.parametrize("form", [("--json",), ()], ids=["json", "text"])
def test_a_bench_that_is_interrupted_keeps_what_was_measured(jar: Jar, form: tuple[str, ...]) -> None:
    model = jar.script(f"I look.\n```repl\n{FIRST_ALONE}\n```", rest='default = "1234567"\n')
    running = jar.start("bench", "niah", "--tokens", "1024", "--model", model, "--quiet", *form)

    def in_the_second() -> bool:
        with contextlib.suppress(AuditUnavailable, InvalidInput):  # a log that is just being made is no log yet
            return len(jar.records("run.started")) == 3
        return False

    until(in_the_second, what="the second case runs, after the first and its direct call")
    running.signal(signal.SIGINT)
    outcome = running.wait()
    assert outcome.code == 130
    kept = [*(jar.at / "results").glob("*")]
    assert len(kept) == 1
    assert f"output: not all cases were measured: the table of those that were is in {kept[0]}\n" in outcome.stderr
    table = json.loads(kept[0].read_text())
    assert [(row["case"], row["score"], row["direct"]["score"]) for row in table["rows"]] == [("depth-0", 1.0, 0.0)]


def test_where_no_table_can_be_kept_it_goes_to_stderr(jar: Jar) -> None:
    jar.file("../state/results", "in the way")
    outcome = jar("bench", "niah", "--case", "depth-0", "--quiet", before=to("> /dev/full"))
    said, table = outcome.stderr.split("\n", 1)
    assert (outcome.code, said.endswith(": the table follows")) == (10, True)
    assert json.loads(table)["score"] == 1.0
