"""What meets only in a log that has been in use: what was erased, signed, exported, replayed, moved and damaged."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import atif as interchange
import msgspec
import pytest

from belljar import Result
from belljar.audit import verify
from belljar.keys import Keys
from tests import second_verifier
from tests.integration.faults import Fault, needs_strace, with_fault
from tests.integration.support import Jar, Outcome
from tests.integration.test_meetings import Says, saying_yes
from tests.integration.test_replay import TURNS, Rig
from tests.unit.test_models_anthropic import KEY

VERDICT: Any = second_verifier.verdict
FORMATS = ("jsonl", "atif", "rlm", "otel", "html")
# What `Rig.run` says in each kind of text: the question, replies, code, output, prompts.
SAID = (
    "Which colour?",
    "Let me look.",
    "llm_query_batched",
    " line 0: the grass",
    "What colour?",
    "Deeper?",
    "as grass",
)
CHILD = '```repl\nFINAL(rlm_query("Deeper?", context=context[:9]))\n```'
GRANDCHILD = '```repl\nFINAL("as grass")\n```'


@pytest.fixture
def rig(jar: Jar) -> Rig:
    """Of this state folder, with the keys that the command line has."""
    return Rig(jar.at, jar.environ())


def of_three(rig: Rig) -> Result:
    """A run with a child, which has one, too."""
    result = rig.run(turns=[*TURNS, CHILD, GRANDCHILD])
    assert (result.status, result.answer) == ("ok", "green")
    return result


def exported(jar: Jar, run: object) -> dict[str, str]:
    """The run in each format."""
    found = {form: jar("audit", "export", str(run), "--format", form) for form in FORMATS}
    assert {form: (one.code, one.stderr) for form, one in found.items()} == dict.fromkeys(FORMATS, (0, ""))
    return {form: one.stdout for form, one in found.items()}


def evidence(jar: Jar, result: Result) -> list[str]:
    """Files with the receipt of a run and with a checkpoint, as whoever keeps them elsewhere has them."""
    receipt = jar.file("receipt.json", msgspec.json.encode(result.receipt))
    note = jar.file("note.txt", jar("audit", "checkpoint", "--json").document["checkpoint"])
    return ["--receipt", str(receipt), "--from", str(note)]


def holds(jar: Jar, kept: list[str]) -> None:
    """The log agrees with what was kept elsewhere, for both verifiers."""
    verified = jar("audit", "verify", *kept)
    assert (verified.code, verified.stderr) == (0, "")
    folder = Keys.at(jar.environ()).folder
    assert VERDICT(jar.journal, folder, [Path(kept[1]).read_text(), Path(kept[3]).read_text()]) is None


def changed(jar: Jar, statement: str, *values: object) -> int:
    """Change the journal behind everybody's back; returns how many rows."""
    with closing(sqlite3.connect(jar.journal)) as db, db:
        return db.execute(statement, values).rowcount


# --------------------------------------------------------------------------------------------------- what was erased


def test_what_was_erased_says_so_everywhere_and_the_old_receipt_holds(jar: Jar, rig: Rig) -> None:
    result = of_three(rig)
    run, kept = str(result.run), evidence(jar, result)
    before, shown = exported(jar, run), jar("audit", "show", run, "--full").stdout
    for text in SAID:
        assert text in shown
        assert all(json.dumps(text)[1:-1] in before[form] for form in ("atif", "rlm", "html")), text

    child = jar("audit", "erase", f"{run}.00001", "--yes")
    assert child.stdout.split() == [f"{run}.00001", f"{run}.00001.00001"]
    for text in (jar("audit", "show", run).stdout, *(exported(jar, run)[form] for form in ("atif", "rlm", "html"))):
        assert "Let me look." in text
        assert "Deeper?" not in text
        assert "they were erased" in text

    assert jar("audit", "erase", run, "--yes").stdout.split() == [run]
    after, shown = exported(jar, run), jar("audit", "show", run, "--full").stdout
    assert [text for text in SAID if text in shown or any(text in one for one in after.values())] == []
    for text in (shown, *(after[form] for form in ("atif", "rlm", "html"))):
        assert f"the contents of {run} are gone: they were erased" in text
    for form in ("jsonl", "otel"):
        text = jar("audit", "export", run, "--format", form, "--content").stdout
        assert f"the contents of {run} are gone: they were erased" in text
        assert [one for one in SAID if one in text] == []
    # Stored records and spans have nothing of what was said.
    assert (after["jsonl"], after["otel"]) == (before["jsonl"], before["otel"])
    replayed = jar("audit", "replay", run)
    assert (replayed.code, replayed.complaint) == (
        9,
        "belljar: incomplete: it could not be run, so nothing was compared",
    )
    assert f"missing    the question: the contents of {run} are gone: they were erased" in replayed.stdout
    holds(jar, kept)


@pytest.mark.parametrize(
    ("options", "why"),
    [((), "they were kept for as long as their policy says"), (("--max", "1 B"), "they made room for later ones")],
)
def test_what_is_kept_no_longer_leaves_an_old_receipt_and_a_new_key_their_log(
    jar: Jar, rig: Rig, options: tuple[str, ...], why: str
) -> None:
    result = of_three(rig)
    run, kept = str(result.run), evidence(jar, result)
    assert jar("audit", "rotate-key").code == 0
    assert jar("audit", "prune").stdout == ""  # a month is not over yet
    if not options:
        assert changed(jar, "UPDATE content_keys SET until = 2") == 3
    pruned = jar("audit", "prune", *options)
    assert (pruned.code, sorted(pruned.stdout.split())) == (0, [run, f"{run}.00001", f"{run}.00001.00001"])
    assert why in jar("audit", "show", run).stdout
    assert why in exported(jar, run)["html"]
    holds(jar, kept)
    late = jar("audit", "receipt", run).document["receipt"]
    assert (late["head"], late["leaf"]) == (result.receipt.head, result.receipt.leaf)  # type: ignore[union-attr]


# ----------------------------------------------------------------------------------------------------- the full disk


ASKS = """
import os
print("here")
FINAL(llm_query(os.urandom(500_000).hex()))
"""


def test_a_query_whose_prompt_finds_no_room_on_the_disk_is_not_sent(jar: Jar) -> None:
    """What a run writes before takes some twenty pages; the prompt alone takes more than a hundred."""
    needs_strace()
    jar.exec_json("print(1)")
    program, trace = jar.file("asks.py", ASKS), jar.work / "trace"
    command = ("exec", program, "--model", "claude-haiku-5-5", "--policy", "dev", "--language", "python", "--quiet")
    paths = [Path(f"{jar.journal}{suffix}") for suffix in ("", "-wal", "-shm", "-journal")]
    with saying_yes() as provider:
        env = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": provider}
        full = jar(*command, env=env, before=with_fault(Fault("pwrite64", "error=ENOSPC", "120+"), paths, trace))
        assert "(INJECTED)" in trace.read_text()
        assert (full.code, "disk is full" in full.stderr) == (8, True), full.stderr
        assert Says.keys == []
        events = [record.event for record in jar.records()]
        assert ("cell.started" in events[-3:], "query.requested" in events) == (True, False)
        assert verify(jar.journal).problems == []
        again = jar(*command, "--json", env=env).result
        assert again["answer"] == "yes", again["error"]
        assert len(Says.keys) == 1
    assert len(jar.records("query.requested")) == 1


# ------------------------------------------------------------------------------------------------- a tree, everywhere


def test_a_tree_of_runs_is_one_in_each_format_and_its_replay_is_another(jar: Jar, rig: Rig) -> None:
    run = str(of_three(rig).run)
    tree = [run, f"{run}.00001", f"{run}.00001.00001"]
    found = exported(jar, run)
    assert {json.loads(line)["run"] for line in found["jsonl"].splitlines()} == set(tree)
    inside = [interchange.Trajectory.model_validate_json(found["atif"])]
    names = []
    while inside:
        names.append(inside[0].trajectory_id)
        inside = inside[0].subagent_trajectories or []
    assert names == tree
    (call,) = (call for call in calls_of(found["rlm"].splitlines()[-1]) if "metadata" in call)
    assert [inner["belljar"]["run"] for inner in (call, *below(call))] == tree[1:]
    spans = [span for line in found["otel"].splitlines() for span in spans_of(line)]
    assert [value["stringValue"] for span in spans for value in agents(span)] == tree
    assert all(f'title="{one}"' in found["html"] or one in found["html"] for one in tree)

    replayed = jar("audit", "replay", run, "--json").document["replay"]
    assert (replayed["outcome"], replayed["missing"]) == ("equal", [])
    again = exported(jar, run)
    assert [form for form in FORMATS if form != "html" and again[form] != found[form]] == []
    of_replay = exported(jar, replayed["replay"])
    assert [json.loads(line)["event"] for line in of_replay["jsonl"].splitlines()] == ["run.started", "run.finished"]


def calls_of(line: str) -> list[dict[str, Any]]:
    blocks = json.loads(line)["code_blocks"]
    return [call for block in blocks for call in block["result"]["rlm_calls"]]


def below(call: dict[str, Any]) -> list[dict[str, Any]]:
    calls = [one for line in call["metadata"]["iterations"] for one in calls_of(json.dumps(line))]
    return [inner for one in calls if "metadata" in one for inner in (one, *below(one))]


def spans_of(line: str) -> list[dict[str, Any]]:
    resources = json.loads(line)["resourceSpans"]
    return [span for one in resources for scope in one["scopeSpans"] for span in scope["spans"]]


def agents(span: dict[str, Any]) -> list[dict[str, str]]:
    return [one["value"] for one in span["attributes"] if one["key"] == "gen_ai.agent.id"]


# --------------------------------------------------------------------------------------------------- an older format


def test_a_log_of_format_3_goes_on_signed_shown_and_exported(jar: Jar) -> None:
    older = Path(__file__).parents[1] / "unit" / "older_files" / "audit-3.db"
    shutil.copy(older, jar.journal)
    before = [record.body for record in jar.records()]
    _, result = jar.exec_json("print(1)")
    assert [record.body for record in jar.records()][: len(before)] == before
    receipt = jar.file("result.json", json.dumps(result))
    old = jar.file("receipt.json", jar("audit", "receipt", "r1").stdout)
    assert jar("audit", "verify", "--receipt", receipt, "--receipt", old).code == 0
    shown = jar("audit", "show", "r1", "--full")
    assert (shown.code, "not kept, as the run's policy says" in shown.stdout) == (0, True)
    assert "verdict: timeout" in shown.stdout
    for run in ("r1", "r2", "r3"):
        found = exported(jar, run)
        records = [one.body for one in jar.records() if one.run == run]
        assert found["jsonl"].encode().splitlines() == records[: len(found["jsonl"].splitlines())]
        interchange.Trajectory.model_validate_json(found["atif"])
    assert "All records of this run are signed" in exported(jar, "r1")["html"]
    assert jar("audit", "replay", "r1", "--policy", "dev").code == 9


# ------------------------------------------------------------------------------------------------- what goes to files


def test_a_content_that_is_gone_though_nobody_erased_it_says_so_in_its_place(jar: Jar, rig: Rig) -> None:
    run = str(of_three(rig).run)
    (first, *_) = [record.data["content"] for record in jar.records("query.completed")]
    assert changed(jar, "DELETE FROM contents WHERE digest = ?", bytes.fromhex(first)) == 1
    why = f"the content {first} of {run} is gone from the journal, and nobody erased it: restore a backup"

    def complains(found: Outcome, text: str) -> None:
        assert found.code == 9
        assert found.complaint.endswith(f"what was said is not all what was stored: 1 content, such as {why}")
        assert why in text
        assert "as grass" in text  # all that came later is there

    for form in ("atif", "rlm", "html"):
        file = jar.work / form
        found = jar("audit", "export", run, "--format", form, "-o", file)
        complains(found, file.read_text() if file.exists() else "")
    for options in ((), ("--json",)):
        shown = jar("audit", "show", run, "--full", *options)
        complains(shown, shown.stdout)
    assert jar("audit", "export", run, "--format", "jsonl").code == 0
    replayed = jar("audit", "replay", run)
    assert (replayed.code, why in replayed.stderr) == (9, True)


def test_what_cannot_be_written_is_a_line_about_the_file(jar: Jar) -> None:
    jar.exec_json("print(1)")
    (cell,) = jar.records("cell.started")
    places = {jar.work / "nowhere" / "f": "No such file or directory", jar.work: "Is a directory"}
    places[Path("/dev/full")] = "No space left on device"
    for place, why in places.items():
        for command in (("content", cell.run, cell.data["content"]), ("export", cell.run, "--format", "html")):
            found = jar("audit", *command, "-o", place)
            assert (found.code, len(found.stderr.splitlines())) == (2, 1), found.stderr
            assert found.stderr.endswith(f"{place} cannot be written ({why}): name another place with -o\n")
    file = jar.work / "code.py"
    assert jar("audit", "content", cell.run, cell.data["content"], "-o", file).code == 0
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("print(1)", 0o600)
    assert jar("audit", "export", cell.run, "--format", "atif", "-o", "/dev/null").code == 0
    assert not Path("/dev/null").is_file()
