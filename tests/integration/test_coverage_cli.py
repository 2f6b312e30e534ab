"""`belljar audit coverage` as a user sees it: the shares, the ranges, and the exit code of a requirement."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from belljar.cli.audit import audit
from belljar.errors import BelljarError, InvalidInput, VerificationFailed
from belljar.identity import RunId
from tests.journals import OwnLog
from tests.unit.audit_events import made

NO_ITEMS = {"items": 0, "lines": 0}
CONTEXTS: list[Mapping[str, Any]] = [
    {
        "name": "context",
        "kind": "text",
        "sha256": "a" * 64,
        "chars": 1000,
        **NO_ITEMS,
        "text": 0,
        "directory": None,
    },
    {
        "name": "mails",
        "kind": "list",
        "sha256": "b" * 64,
        "chars": 10,
        **NO_ITEMS,
        "text": 1,
        "directory": 2,
    },
]
ALL_READ: list[tuple[str, Mapping[str, Any]]] = [
    ("run.started", {"tenant": "acme", "contexts": CONTEXTS}),
    ("cell.started", {"cell": 1}),
    ("context.read", {"cell": 1, "line": 2, "doc": 2, "start": 0, "stop": 126}),
    ("context.read", {"cell": 1, "line": 2, "doc": 0, "start": 0, "stop": 700}),
    (
        "context.searched",
        {
            "cell": 1,
            "line": 3,
            "doc": 0,
            "mode": "lines",
            "start": 9,
            "stop": 12,
            "count": 300,
            "pattern_sha256": "c" * 64,
            "spans": [[700, 1000]],
        },
    ),
    ("context.read", {"cell": 1, "line": 2, "doc": 1, "start": 0, "stop": 10}),
    ("query.requested", {"action": "r1.1", "cell": 1, "purpose": "sub"}),
    ("query.completed", {"action": "r1.1"}),
    ("query.shown", {"cell": 1, "doc": 0, "spans": [[0, 10], [500, 999]]}),
    ("run.finished", {"status": "ok"}),
]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    async def main() -> None:
        log = OwnLog(tmp_path / "audit.db")
        for event, fields in ALL_READ:
            await log.append(RunId("r1"), made(event, fields))
        await log.append(RunId("r2"), made("run.started", {}))
        await log.aclose()

    asyncio.run(main())
    return tmp_path


def run(state: Path, *arguments: str) -> Result:
    return CliRunner().invoke(audit, ["coverage", *arguments, "--state", str(state)], standalone_mode=False)


def document(result: Result) -> dict[str, Any]:
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def failure(result: Result) -> BelljarError:
    assert isinstance(result.exception, BelljarError), result.exception
    return result.exception


def test_the_shares_and_the_ranges_that_never_were(state: Path) -> None:
    lines = run(state, "r1").stdout.splitlines()
    assert lines == [
        f'"context"  text  {"a" * 12}',
        "  read   100.0000 %  1000 of 1000 characters",
        "  shown   50.9000 %  509 of 1000 characters",
        "  never shown, 2 ranges: 10-500 999-1000",
        f'"mails"  list  {"b" * 12}',
        "  read   100.0000 %  10 of 10 characters",
        "  shown    0.0000 %  0 of 10 characters",
        "  never shown, 1 range: 0-10",
        "all contexts  1010 characters",
        "  read   100.0000 %  1010 of 1010 characters",
        "  shown   50.3960 %  509 of 1010 characters",
        "shown is counted in whole lines, in pieces of at least 24 bytes, and in lines under 12 bytes where several "
        "neighbours stand in a row",
    ]


def test_the_runs_below_count(tmp_path: Path) -> None:
    assert document(run(tree_in(tmp_path), "t1", "--json"))["coverage"]["read_chars"] == 700
    assert run(tmp_path, "last").stdout.splitlines()[1] == "  read    70.0000 %  700 of 1000 characters"


def test_a_tree_is_shown_a_line_for_each_run_with_what_it_cost(tmp_path: Path) -> None:
    show = ["show", "t1", "--tree", "--state", str(tree_in(tmp_path))]
    shown = CliRunner().invoke(audit, show, standalone_mode=False)
    assert shown.stdout.splitlines() == [
        "t1  unfinished  0 calls  0.00 USD",
        "  t1.00001  abandoned   3 calls  0.000009 USD",
        "    t1.00001.00001  killed      1 call  0.0000045 USD",
        "  t1.00002  unfinished  0 calls  0.00 USD",
        "4 runs              4 calls  0.0000135 USD",
    ]
    found = document(CliRunner().invoke(audit, [*show, "--json"], standalone_mode=False))
    assert found["tree"][1] == {
        "run": "t1.00001",
        "depth": 1,
        "status": "abandoned",
        "calls": 3,
        "cost_nanousd": 9000,
    }


def tree_in(state: Path) -> Path:
    """A log with a tree in it; its text is read by two of its runs, and by one that is no part of it."""

    part = {**CONTEXTS[0], "part": (0, 1000)}
    charged = {"calls": 2, "input_tokens": 1, "output_tokens": 1, "cost_nanousd": 4500, "read_bytes": 0}
    entries: list[tuple[str, str, Mapping[str, Any]]] = [
        ("t1", "run.started", {"contexts": CONTEXTS[:1]}),
        ("t1", "cell.started", {"cell": 1}),
        ("t1", "context.read", {"cell": 1, "doc": 0, "start": 0, "stop": 100}),
        ("t1.00001", "run.started", {"contexts": [part]}),
        ("t1.00001.00001", "run.started", {"contexts": [part]}),
        ("t1.00001.00001", "cell.started", {"cell": 1}),
        ("t1.00001.00001", "context.read", {"cell": 1, "doc": 0, "start": 400, "stop": 1000}),
        ("t1.00001", "query.requested", {"action": "a", "cell": 0}),
        ("t1.00001.00001", "query.requested", {"action": "a", "cell": 0}),
        ("t1.00001", "query.completed", {"action": "a"}),
        ("t1.00001.00001", "query.failed", {"action": "a"}),
        ("t1.00001.00001", "run.finished", {"status": "killed"}),
        ("t1.00001", "run.abandoned", {"charged": charged}),
        ("t1.00002", "run.started", {"contexts": []}),
    ]

    async def main() -> None:
        log = OwnLog(state / "audit.db")
        for name, event, fields in entries:
            await log.append(RunId(name), made(event, fields))
        await log.aclose()

    asyncio.run(main())
    return state


def test_ranges_are_listed_up_to_a_number(state: Path) -> None:
    assert "  never shown, 2 ranges: 10-500 and 1 more" in run(state, "r1", "--ranges", "1").stdout.splitlines()


def test_json_is_one_document_with_both_shares(state: Path) -> None:
    found = document(run(state, "r1", "--json"))
    assert (found["run"], found["ok"]) == ("r1", True)
    assert (found["coverage"]["read_share"], found["coverage"]["shown_share"]) == (1.0, 0.50396)
    first = found["coverage"]["documents"][0]
    assert (first["read_share"], first["shown_share"]) == (1.0, 0.509)
    assert first["never_shown"] == {"count": 2, "first": [[10, 500], [999, 1000]]}


@pytest.mark.parametrize(
    ("arguments", "met"),
    [
        (["--require", "100%"], True),
        (["--require", "100%", "--what", "shown"], False),
        (["--require", "50.396%", "--what", "shown"], True),
        (["--require", "50.3961%", "--what", "shown"], False),
        (["--require", "0%", "--what", "shown"], True),
        (["--what", "shown"], True),
    ],
)
def test_a_requirement_that_is_not_met_exits_with_9(state: Path, arguments: list[str], met: bool) -> None:
    result = run(state, "r1", *arguments)
    assert "all contexts  1010 characters" in result.stdout
    assert (result.return_value or result.exit_code) == (0 if met else 9)
    if not met:
        assert result.stderr.startswith("belljar: not met: 50.3960 % of the characters were shown")
        assert "501 characters never were" in result.stderr
    result = run(state, "r1", "--json", *arguments)
    assert document(result)["ok"] is met
    assert (result.return_value or result.exit_code) == (0 if met else 9)


@pytest.mark.parametrize("share", ["100", "101%", "-1%", "half", "99,5%", "1e2%", "%", "١٠٠%"])
def test_what_is_no_percentage_is_a_usage_error(state: Path, share: str) -> None:
    result = run(state, "r1", f"--require={share}")
    assert isinstance(result.exception, click.BadParameter)
    assert "use one such as 99.5%" in result.exception.message


def test_a_log_that_does_not_verify_proves_nothing(state: Path) -> None:
    with closing(sqlite3.connect(state / "audit.db", isolation_level=None)) as db:
        db.execute("DROP TRIGGER records_are_not_changed")
        db.execute("UPDATE records SET hash = zeroblob(32) WHERE seq = 3")
    assert isinstance(failure(run(state, "r1")), VerificationFailed)


def test_an_unknown_run_and_a_run_without_documents(state: Path) -> None:
    assert "belljar audit ls" in str(failure(run(state, "r9")))
    assert run(state, "r2").exception is None
    refused = failure(run(state, "r2", "--require", "1%"))
    assert isinstance(refused, InvalidInput)
    assert refused.code == "audit.no_document"


def test_a_record_after_the_end_proves_nothing(state: Path) -> None:
    async def forge() -> None:
        log = OwnLog(state / "audit.db")
        await log.append(RunId("r1"), made("query.shown", {"spans": [[0, 1000]]}))
        await log.aclose()

    asyncio.run(forge())
    error = failure(run(state, "r1", "--require", "100%", "--what", "shown"))
    assert isinstance(error, VerificationFailed)
    assert "after the end of run 'r1'" in str(error)
