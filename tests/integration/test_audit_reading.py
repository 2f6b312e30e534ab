"""Reading the log: which runs, what one did, what is new, how two differ; and that it was read stands in the log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from belljar.audit import Record, records, runs, verify
from belljar.audit.read import record_at
from belljar.audit.source import Source
from belljar.cli.audit import audit
from belljar.errors import AuditUnavailable, BelljarError, InvalidInput, VerificationFailed
from belljar.identity import RunId
from belljar.journal.schema import SCHEMA, Schema
from tests.integration.support import BELLJAR, Jar
from tests.journals import OwnLog
from tests.unit.audit_events import made
from tests.unit.test_trajectory import TREE
from tests.waiting import PATIENCE_S, until

Entry = tuple[str, str, Mapping[str, Any]]
HOUR_NS = 3600 * 10**9
# 2026-11-23T00:00:00 UTC; each record an hour later than the one before.
BEGAN_NS = 1795392000 * 10**9
RUNS: list[Entry] = [
    ("a", "run.started", {"tenant": "acme/research", "root_model": "big", "sub_model": "small"}),
    ("a.00001", "run.started", {"tenant": "acme/research", "root_model": "small"}),
    ("a.00001", "run.finished", {"status": "ok", "cost_nanousd": 600, "refused": 0}),
    ("a", "run.finished", {"status": "error", "cost_nanousd": 500, "refused": 2}),
    ("b", "run.started", {"tenant": "acmeother", "root_model": "big"}),
    ("b", "cell.started", {"cell": 1}),
    ("b", "query.requested", {"action": "b.1", "model": "tiny"}),
    ("b", "query.completed", {"action": "b.1", "answered_by": "tiny-2", "cost_nanousd": 700}),
    ("c", "run.started", {"tenant": "acme"}),
    ("c", "cell.started", {"cell": 1}),
    ("c", "request.refused", {"cell": 1}),
    ("c", "run.abandoned", {"cost_nanousd": 0}),
]


def write(state: Path, entries: Sequence[Entry], start_ns: int = BEGAN_NS) -> Path:
    async def main() -> None:
        times = iter(range(start_ns, start_ns + len(entries) * HOUR_NS, HOUR_NS))
        log = OwnLog(state / "audit.db", clock=lambda: next(times))
        for run, event, fields in entries:
            await log.append(RunId(run), made(event, fields))
        await log.aclose()

    asyncio.run(main())
    return state


def ask(state: Path, *arguments: str) -> Result:
    return CliRunner().invoke(audit, [*arguments, "--state", str(state)], standalone_mode=False)


def failure(result: Result) -> BelljarError:
    assert isinstance(result.exception, BelljarError), result.exception
    return result.exception


def reads(state: Path) -> list[dict[str, Any]]:
    return [record.data for record in records(state / "audit.db", "host.reads")]


def event_of(line: str) -> str:
    """Of a record in a line, its event stands behind the seconds."""
    return line.partition(" s  ")[2].split()[0]


# -- ls --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "listed"),
    [
        ([], "a a.00001 b c"),
        (["--tenant", "acme"], "a a.00001 c"),
        (["--status", "ok"], "a.00001"),
        (["--status", "unfinished"], "b"),
        (["--status", "abandoned"], "c"),
        (["--model", "big"], "a b"),
        (["--model", "small"], "a a.00001"),
        (["--model", "tiny"], "b"),
        (["--model", "tiny-2"], "b"),
        (["--since", "2026-11-23T04:00:00"], "b c"),
        (["--until", "2026-11-23T04:00:00"], "a a.00001"),
        (["--since", "2026-11-24"], ""),
        (["--since", "2026-11-23T04:00:00Z"], "b c"),
        (["--since", "2026-11-23T05:00:00.000+01:00"], "b c"),
        (["--since", "2026-11-23 04:00:00"], "b c"),
        (["--since", "2026-11-23 04:00:00 UTC"], "b c"),
        (["--until", "2026-11-23t04:00:00z"], "a a.00001"),
        (["--min-cost", "0.0000007"], "a b"),
        (["--min-cost", "0.000000601"], "a b"),
        (["--min-cost", "0.0000011"], "a"),
        (["--status", "diverged"], ""),
        (["--refused"], "a c"),
        (["--limit", "2"], "b c"),
        (["--tenant", "acme", "--limit", "1"], "c"),
        (["--refused", "--tenant", "acme/research"], "a"),
    ],
)
def test_runs_are_listed_by_what_they_are(tmp_path: Path, options: list[str], listed: str) -> None:
    state = write(tmp_path, RUNS)
    assert [line.split()[0] for line in ask(state, "ls", *options).stdout.splitlines()] == listed.split()
    found = json.loads(ask(state, "ls", *options, "--json").stdout)["runs"]
    assert [run["run"] for run in found] == listed.split()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--status", "eror"], "'eror' is not how a run ends"),
        (["--tenant", "Acme"], "'Acme' is not a valid tenant name"),
        (["--since", "yesterday"], "'yesterday' is not a valid time; use one such as"),
        (["--min-cost", "1 EUR"], "'1 EUR' is not a valid amount"),
    ],
)
def test_what_no_run_can_be_is_refused_and_not_looked_for(tmp_path: Path, options: list[str], why: str) -> None:
    refused = ask(write(tmp_path, RUNS), "ls", *options).exception
    assert isinstance(refused, (click.BadParameter, InvalidInput))
    assert why in str(refused)


def test_of_the_latest_runs_no_others_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = write(tmp_path, RUNS)
    read: list[int] = []

    def look(source: Source, seq: int) -> Record:
        read.append(seq)
        return record_at(source, seq)

    monkeypatch.setattr("belljar.audit.read.record_at", look)
    last = runs(state / "audit.db")[-1]
    read.clear()
    assert ask(state, "ls", "--limit", "1").stdout.startswith(last.run)
    assert len(read) == 2  # its first and its last


def test_what_is_in_the_file_is_looked_at_once_for_all_that_is_read_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = write(tmp_path, RUNS)
    looks: list[str] = []
    has_table = Schema.has_table

    def look(schema: Schema, db: sqlite3.Connection, name: str) -> bool:
        looks.append(name)
        return has_table(schema, db, name)

    monkeypatch.setattr(Schema, "has_table", look)
    ask(state, "ls")
    assert sorted(looks) == ["pack_runs", "packs", "records"]


def test_only_where_it_must_the_list_looks_into_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = write(tmp_path, RUNS)
    looked: list[str] = []

    def look(log: Path, run: str) -> Any:
        looked.append(run)
        return records(log, run)

    monkeypatch.setattr("belljar.audit.choosing.records", look)
    ask(state, "ls", "--tenant", "acme", "--since", "2026-11-23", "--status", "ok", "--model", "small")
    assert looked == []
    ask(state, "ls", "--min-cost", "0.000001")
    assert looked == ["b"]


# -- show ------------------------------------------------------------------------------------------------------------


def test_a_run_is_shown_as_a_tree_and_its_records_as_they_are(tmp_path: Path) -> None:
    state = write(tmp_path, TREE)
    lines = ask(state, "show", "last").stdout.splitlines()
    assert lines[0].startswith("run  t  acme")
    assert lines[-1].startswith("  verdict: ok  limits.turns")
    assert any(line.startswith("      run  t.00001") for line in lines)
    raw = ask(state, "show", "t.00001", "--records").stdout.splitlines()
    assert [event_of(line) for line in raw] == [event for run, event, _ in TREE if run == "t.00001"]


def test_what_was_kept_of_a_run_is_shown(jar: Jar) -> None:
    jar.exec_json("print('the herons')\nFINAL(context[:3])", "--context", jar.file("text.txt", "abcdef"))
    lines = [line.strip() for line in jar("audit", "show", "last").stdout.splitlines()]
    at = lines.index("| print('the herons')")
    assert lines[at + 1] == "| FINAL(context[:3])"
    assert "| the herons" in lines
    assert "| abc" in lines
    (turn,) = jar("audit", "show", "last", "--json").document["trajectory"]["turns"]
    assert turn["cells"][0]["code"]["text"] == "print('the herons')\nFINAL(context[:3])"


def test_how_a_cell_failed_is_shown_though_it_printed_nothing(jar: Jar) -> None:
    jar.exec_json("x = 1 / 0")
    lines = [line.strip() for line in jar("audit", "show", "last").stdout.splitlines()]
    at = lines.index("output, 0 bytes")
    assert lines[at + 1].startswith("| Traceback")
    assert "| ZeroDivisionError: division by zero" in lines


def test_of_a_cell_that_printed_nothing_and_is_well_no_output_is_shown(jar: Jar) -> None:
    jar.exec_json("FINAL(1)")
    assert "output" not in jar("audit", "show", "last").stdout


def test_the_tree_is_one_document_in_json(tmp_path: Path) -> None:
    document = json.loads(ask(write(tmp_path, TREE), "show", "t", "--json").stdout)
    assert document["run"] == "t"
    assert document["coverage"]["read_chars"] == 180
    steps = document["trajectory"]["turns"][0]["cells"][0]["steps"]
    assert [step["step"] for step in steps] == ["read", "query", "child", "shown", "search", "refused"]


def test_what_the_host_did_is_shown_in_records(tmp_path: Path) -> None:
    state = write(tmp_path, TREE)
    ask(state, "show", "t")
    assert '"audit show" of=["t"]' in ask(state, "show", "host.reads").stdout


def test_of_many_runs_only_the_one_that_is_shown_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = write(tmp_path, [*RUNS, *TREE])
    parsed: list[int] = []
    from belljar.audit import read

    parse = read.parse

    def counted(seq: int, body: object) -> Record:
        parsed.append(seq)
        return parse(seq, body)

    monkeypatch.setattr(read, "parse", counted)
    ask(state, "show", "last")
    assert min(parsed) > len(RUNS)


# -- that it was read --------------------------------------------------------------------------------------------------


def test_who_reads_what_runs_did_stands_in_the_log(tmp_path: Path) -> None:
    state = write(tmp_path, TREE)
    for arguments in (["show", "last"], ["show", "t", "--records"], ["tail"], ["tail", "t"], ["coverage", "t"]):
        ask(state, *arguments)
    ask(state, "diff", "t", "t.00001")
    said = reads(state)
    assert [one["command"] for one in said] == [
        *("audit show", "audit show", "audit tail", "audit tail", "audit coverage", "audit diff")
    ]
    assert [one.get("of", []) for one in said] == [["t"], ["t"], [], ["t"], ["t"], ["t", "t.00001"]]
    assert {one["by"].partition(":")[0] for one in said} == {"user"}
    assert verify(state / "audit.db").ok


def test_the_list_and_the_check_of_a_log_leave_no_trace(tmp_path: Path) -> None:
    state = write(tmp_path, RUNS)
    before = (state / "audit.db").read_bytes()
    ask(state, "ls", "--model", "tiny")
    ask(state, "verify")
    assert (state / "audit.db").read_bytes() == before


@pytest.mark.parametrize("arguments", [["show", "t"], ["tail"], ["diff", "t", "t.00001"], ["coverage", "t"]])
def test_a_log_that_cannot_say_so_is_read_only_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    state = write(tmp_path, TREE)

    def full(_: Path, **_kinds: object) -> None:
        raise AuditUnavailable("the disk is full")

    monkeypatch.setattr("belljar.journal.opening.open_journal", full)
    refused = ask(state, *arguments)
    assert isinstance(failure(refused), AuditUnavailable)
    assert "the disk is full; --unlogged reads a log that cannot be written" in str(refused.exception)
    assert refused.stdout == ""
    assert ask(state, *arguments, "--unlogged").stdout


def test_an_older_log_is_not_migrated_because_somebody_reads_it(tmp_path: Path) -> None:
    state = write(tmp_path, TREE)
    with closing(sqlite3.connect(state / "audit.db")) as db:
        db.execute("PRAGMA user_version=3")
    before = (state / "audit.db").read_bytes()
    assert f"has format 3, and {SCHEMA.version} is written here" in str(failure(ask(state, "show", "t")))
    assert ask(state, "show", "t", "--unlogged").stdout
    assert (state / "audit.db").read_bytes() == before


def test_a_log_that_can_be_written_says_that_it_is_read_whatever_is_asked_for(tmp_path: Path) -> None:
    state = write(tmp_path, TREE)
    assert ask(state, "show", "t", "--unlogged").stdout
    assert len(reads(state)) == 1


def test_nothing_is_shown_before_its_reading_is_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = write(tmp_path, TREE)
    seen: list[int] = []
    monkeypatch.setattr("belljar.cli.audit.say", lambda _line: seen.append(len(reads(state))))
    for arguments in (["show", "t"], ["show", "t", "--records"], ["tail"], ["diff", "t", "t.00001"]):
        before = len(reads(state))
        ask(state, *arguments)
        assert set(seen) == {before + 1}
        seen.clear()


def test_a_run_that_is_not_there_is_not_read(tmp_path: Path) -> None:
    state = write(tmp_path, TREE)
    for arguments in (["show", "nope"], ["tail", "nope"], ["diff", "t", "nope"]):
        assert isinstance(failure(ask(state, *arguments)), InvalidInput)
    assert reads(state) == []


def test_half_a_surrogate_pair_in_a_log_is_written_out_in_every_document(tmp_path: Path) -> None:
    """A name or an error can have one; no reader of JSON in UTF-8 takes it."""
    odd = [
        (run, event, {**fields, "root_model": "m\ud800"} if event == "run.started" else fields)
        for run, event, fields in TREE
    ]
    state = write(tmp_path, [*odd, *renamed("u", TREE)])
    for words in (["ls"], ["show", "t"], ["show", "t", "--records"], ["diff", "t", "u"]):
        result = ask(state, *words, "--json")
        assert msgspec.json.decode(result.stdout), result.exception
        assert r'"m\\ud800"' in result.stdout


# -- tail --------------------------------------------------------------------------------------------------------------


def test_the_last_records_are_shown(tmp_path: Path) -> None:
    state = write(tmp_path, TREE)
    assert [event_of(line) for line in ask(state, "tail", "t", "-n", "2").stdout.splitlines()] == [
        "request.refused",
        "run.finished",
    ]
    found = [json.loads(line) for line in ask(state, "tail", "-n", "3", "--json").stdout.splitlines()]
    assert [record["event"] for record in found] == ["run.finished", "log.read", "log.read"]
    everything = ask(state, "tail", "-n", "9" * 20)  # more than a database can count
    assert (everything.exit_code, event_of(everything.stdout)) == (0, "run.started")


def followed(state: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [BELLJAR, "audit", "tail", "-f", *arguments, "--state", str(state)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def test_who_follows_a_log_is_told_when_an_old_copy_is_put_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = write(tmp_path, TREE)
    old = (state / "audit.db").read_bytes()

    def put_back(_: float) -> None:
        """Where it would look again later."""
        assert not (state / "audit.db-wal").exists()
        (state / "audit.db").write_bytes(old)

    monkeypatch.setattr("belljar.cli.audit.time.sleep", put_back)
    error = ask(state, "tail", "-f").exception
    assert isinstance(error, VerificationFailed)
    assert f"the log had {len(TREE) + 1} records and now has {len(TREE)}: an old copy" in str(error)


def test_a_run_is_followed_until_it_ends(tmp_path: Path) -> None:
    half = len(TREE) // 2
    state = write(tmp_path, TREE[:half])
    process = followed(state, "t", "-n", "1000", "--json")
    until(lambda: len(reads(state)) == 1, what="the reading is logged")
    write(state, [("other", "run.started", {}), *TREE[half:]], BEGAN_NS + half * HOUR_NS)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")
    found = [json.loads(line) for line in out.splitlines()]
    assert [(record["run"], record["event"]) for record in found] == [(run, event) for run, event, _ in TREE]


def test_nothing_is_awaited_of_a_run_that_has_ended_though_none_of_it_is_shown(tmp_path: Path) -> None:
    result = ask(write(tmp_path, TREE), "tail", "t", "-f", "-n", "0")
    assert (result.exit_code, result.stdout) == (0, "")


def test_following_ends_on_interrupt(tmp_path: Path) -> None:
    state = write(tmp_path, TREE[:3])
    process = followed(state)
    assert process.stdout is not None
    assert "run.started" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (130, "belljar: interrupted: nothing is left half done\n")


# -- diff --------------------------------------------------------------------------------------------------------------


def renamed(run: str, entries: Sequence[Entry]) -> list[Entry]:
    def name(text: str) -> str:
        return run + text.removeprefix("t")

    return [
        (name(one), event, {**fields, **({"action": name(fields["action"])} if "action" in fields else {})})
        for one, event, fields in entries
    ]


def test_two_runs_that_did_the_same_do_not_differ(tmp_path: Path) -> None:
    state = write(tmp_path, [*TREE, *renamed("u", TREE)])
    result = ask(state, "diff", "t", "u")
    assert (result.exit_code, result.stdout) == (0, "the runs do not differ\n")


def test_the_first_divergence_comes_first_with_both_sides(tmp_path: Path) -> None:
    other = [
        (
            run,
            event,
            {**fields, "reply_sha256": "e" * 64}
            if fields.get("action") == "t.00001.1" and "completed" in event
            else {**fields, "status": "error"}
            if (run, event) == ("t", "run.finished")
            else fields,
        )
        for run, event, fields in TREE
    ]
    state = write(tmp_path, [*TREE, *renamed("u", other)])
    result = ask(state, "diff", "t", "u", "--json")
    found = json.loads(result.stdout)
    assert found["same"] is False
    assert [(one["at"], one["what"]) for one in found["differences"]] == [
        ("cell 1, child 1, cell 1, tool call 1", "reply"),
        ("end", "status"),
    ]
    first = found["differences"][0]
    assert (first["left"], first["right"]) == ("d" * 64, "e" * 64)
    lines = ask(state, "diff", "t", "u").stdout.splitlines()
    assert lines[:3] == [
        "cell 1, child 1, cell 1, tool call 1: reply",
        f'  t  "{"d" * 64}"',
        f'  u  "{"e" * 64}"',
    ]
    assert lines[-1] == "2 differences"


def test_one_query_more_does_not_make_the_others_differ(tmp_path: Path) -> None:
    def asking(run: str, prompts: str) -> list[Entry]:
        found: list[Entry] = [(run, "run.started", {}), (run, "cell.started", {"cell": 1})]
        for number, prompt in enumerate(prompts, start=1):
            action = {"action": f"{run}.{number}"}
            found.append((run, "query.requested", {**action, "prompt_sha256": prompt * 64}))
            found.append((run, "query.completed", {**action, "reply_sha256": prompt * 64}))
        return found

    state = write(tmp_path, [*asking("t", "1234"), *asking("u", "2143"), *asking("v", "01234")])
    assert ask(state, "diff", "t", "u").stdout == "the runs do not differ\n"
    found = json.loads(ask(state, "diff", "t", "v", "--json").stdout)["differences"]
    assert [(one["at"], one["what"], one["left"]) for one in found] == [("cell 1, query 5", "missing", None)]
    assert found[0]["right"]["prompt"] == "0" * 64


def test_two_runs_of_one_program_do_not_differ(jar: Jar) -> None:
    for _ in range(2):
        jar.exec_json("print(1); FINAL(2)")
    runs = [run["run"] for run in jar("audit", "ls", "--json").document["runs"]]
    same = jar("audit", "diff", *runs)
    assert (same.code, same.stdout) == (0, "the runs do not differ\n")
    jar.exec_json("print(1); FINAL(3)")
    other = jar("audit", "diff", runs[0], "last", "--json")
    assert other.code == 9
    assert [(one["at"], one["what"]) for one in other.document["differences"]] == [
        ("cell 1", "code"),
        ("cell 1, answer 1", "answer"),
    ]


def test_what_was_printed_counts_where_it_is_kept_and_its_length_where_it_is_not(jar: Jar) -> None:
    """Ids of runs and addresses of objects are another each time, and do not count."""
    program = """
try:
    rlm_query("x")
except Exception as error:
    print(error, object())
print(open('/dev/urandom', 'rb').read(8).hex())
"""
    same, other = program.partition("print(open")[0], program
    for code in (same, same, other, other):
        assert jar.exec(code, "--language", "python", "--policy", "dev").code == 0
    runs = [run["run"] for run in jar("audit", "ls", "--json").document["runs"]]
    assert jar("audit", "diff", *runs[:2]).stdout == "the runs do not differ\n"
    found = jar("audit", "diff", *runs[2:], "--json")
    assert found.code == 9
    assert [(one["at"], one["what"]) for one in found.document["differences"]] == [("cell 1", "output")]
    assert jar("audit", "erase", runs[2], "--yes").code == 0
    gone = jar("audit", "diff", *runs[2:])
    assert (gone.code, gone.stdout) == (0, "the runs do not differ\n")
    assert gone.complaint.startswith("belljar: of 1 text the length alone was compared")


def test_two_questions_of_the_same_length_differ(jar: Jar) -> None:
    model = jar.script("```repl\nFINAL(1)\n```")
    for question in ("Which cat?", "Which dog?"):
        assert jar("run", question, "--context", jar.file("text.txt", "abc"), "--model", model, "--quiet").code == 0
    runs = [run["run"] for run in jar("audit", "ls", "--json").document["runs"]]
    found = jar("audit", "diff", *runs, "--json").document["differences"]
    assert [(one["at"], one["what"]) for one in found] == [("start", "question")]
