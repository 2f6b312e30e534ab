"""`belljar audit export` as a user sees it: each format, to a file or a pipe, of a log that verifies or does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import sqlite3
import stat
import subprocess
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from belljar.cli.audit import audit
from belljar.errors import InvalidInput
from belljar.identity import RunId
from tests.integration.support import BELLJAR, Jar
from tests.journals import OwnLog
from tests.unit.audit_events import made

RECORDS: list[tuple[str, str, Mapping[str, Any]]] = [
    ("r1", "run.started", {"tenant": "acme", "question_bytes": 4}),
    ("r1", "cell.started", {"cell": 1}),
    ("r2", "run.started", {"tenant": "other"}),
    ("r1", "query.requested", {"action": "r1.1", "cell": 1, "purpose": "sub"}),
    ("r1.00001", "run.started", {"tenant": "acme"}),
    ("r1.00001", "run.finished", {"status": "ok"}),
    ("r1", "query.completed", {"action": "r1.1"}),
    ("r1", "cell.finished", {"cell": 1}),
    ("r1", "run.finished", {"status": "ok"}),
]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    async def main() -> None:
        log = OwnLog(tmp_path / "audit.db")
        for run, event, fields in RECORDS:
            await log.append(RunId(run), made(event, fields))
        await log.aclose()

    asyncio.run(main())
    return tmp_path


def export(state: Path, *arguments: str | Path) -> Result:
    found = CliRunner().invoke(audit, ["export", "--state", str(state), *map(str, arguments)])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0
    return found


def test_jsonl_has_the_records_of_the_run_and_of_those_below_it_as_they_are_stored(state: Path) -> None:
    with closing(sqlite3.connect(state / "audit.db")) as db:
        stored = [body for (body,) in db.execute("SELECT body FROM records ORDER BY seq") if b'"run":"r2"' not in body]
    assert sorted(export(state, "r1", "--format", "jsonl").stdout_bytes.splitlines()) == sorted(stored)


def test_a_file_is_private_and_the_same_as_what_goes_to_stdout(state: Path) -> None:
    for form in ("jsonl", "atif", "rlm", "otel"):
        file = state / form
        printed = export(state, "r1", "--format", form).stdout_bytes
        assert export(state, "r1", "--format", form, "-o", file).stdout_bytes == b""
        assert file.read_bytes() == printed
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    told = json.loads(export(state, "r1", "--format", "atif", "-o", state / "again", "--json").stdout)
    assert (told["run"], told["format"], told["file"]) == ("r1", "atif", str(state / "again"))
    assert json.loads((state / "atif").read_bytes())["subagent_trajectories"][0]["trajectory_id"] == "r1.00001"


def test_the_page_says_whether_the_log_verified(state: Path) -> None:
    assert "The log verifies" in export(state, "r1", "--format", "html").stdout
    with closing(sqlite3.connect(state / "audit.db")) as db, db:
        db.execute("DROP TRIGGER records_are_not_deleted")
        db.execute("DELETE FROM records WHERE seq = 3")
    found = export(state, "r1", "--format", "html", "--unlogged").stdout
    assert "The log does not verify" in found
    assert "The log verifies" not in found


def test_what_was_said_in_a_real_run_is_in_its_exports_and_not_in_its_spans(jar: Jar) -> None:
    (jar.work / "program.py").write_text("print(llm_query('Which ' + 'city?'), len(context))\nFINAL('Par' + 'is')\n")
    (jar.work / "log.txt").write_text("Paris")
    (jar.work / "model.toml").write_text('[[reply]]\nwhen = "city"\ntext = "It is written: Paris"\n')
    command = ("exec", "program.py", "--context", "log.txt", "--sub-model", "scripted:model.toml")
    assert jar(*command).code == 0
    printed = {
        form: jar("audit", "export", "last", "--format", form).stdout for form in ("html", "atif", "rlm", "otel")
    }
    for form in ("html", "atif", "rlm"):
        for text in ("It is written: Paris 5", "Which city?", "len(context)"):
            assert text in printed[form], (form, text)
    assert "not here" not in printed["rlm"]
    assert '<span class="st good">answered</span>' in printed["html"]
    assert "Which" not in printed["otel"]
    for form in ("jsonl", "otel"):
        told = jar("audit", "export", "last", "--format", form, "--content").stdout
        assert all(text in told for text in ("It is written: Paris", "Which city?", "len(context)")), form
    assert "Which" not in jar("audit", "export", "last", "--format", "jsonl").stdout
    line = json.loads(printed["rlm"].splitlines()[1])
    assert line["code_blocks"][0]["result"]["stdout"] == "It is written: Paris 5\n"
    assert '"event":"log.read"' not in jar("audit", "export", "last", "--format", "jsonl").stdout
    assert "audit export" in jar("audit", "show", "host.reads", "--records").stdout


def test_no_text_of_a_run_steers_the_terminal_that_an_export_goes_to(jar: Jar) -> None:
    jar.exec("print('\\x1b[31m' + '\\u202e' + 'red')")
    for form in ("jsonl", "atif", "rlm", "otel", "html"):
        content = ["--content"] if form in ("jsonl", "otel") else []
        words = [BELLJAR, "audit", "export", "last", "--format", form, *content, "--state", str(jar.state.root)]
        master, slave = pty.openpty()
        with subprocess.Popen(words, stdout=slave, stdin=subprocess.DEVNULL, env=jar.environ()) as process:
            os.close(slave)
            seen = bytearray()
            with contextlib.suppress(OSError):  # how a terminal says that its last writer has gone
                while more := os.read(master, 65536):
                    seen.extend(more)
        os.close(master)
        assert process.returncode == 0
        shown = seen.decode()
        assert "red" in shown, form
        assert not {"\x1b", "\u202e"} & set(shown), form


def test_a_run_that_is_not_there_and_a_place_that_cannot_be_written_are_refused(state: Path) -> None:
    for form in ("jsonl", "atif", "html", "rlm", "otel"):
        with pytest.raises(InvalidInput, match="no run r9"):
            export(state, "r9", "--format", form)
    with pytest.raises(InvalidInput, match="cannot be written"):
        export(state, "r1", "--format", "jsonl", "-o", state / "nowhere" / "file")
