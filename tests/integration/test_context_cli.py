"""`belljar context`: what people and their scripts see of the store."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest

import belljar
from belljar.context import ContextStores
from tests.integration.support import BELLJAR, Jar, Outcome


def document(outcome: Outcome) -> dict[str, Any]:
    assert (outcome.code, outcome.stderr) == (0, ""), outcome.stderr
    found: dict[str, Any] = json.loads(outcome.stdout)
    assert found.pop("schema_version") == 1
    return found


def listed(jar: Jar, *arguments: str) -> list[str]:
    return [one["name"] for one in document(jar("context", "ls", "--json", *arguments))["contexts"]]


def test_files_and_a_folder_are_added_listed_and_removed(jar: Jar) -> None:
    one, two = jar.file("one.txt", "one\n"), jar.file("two.txt", "zwei\n".encode("utf-16"))
    (jar.work / "folder").mkdir()
    jar.file("folder/three.txt", "three")
    (jar.work / "folder" / "link").symlink_to(one)
    added = document(jar("context", "add", one, two, jar.work / "folder", "--json"))["contexts"]
    assert [(a["name"], a["kind"], a["chars"], a["items"], a["lines"]) for a in added] == [
        ("one.txt", "text", 4, 0, 1),
        ("two.txt", "text", 5, 0, 1),
        ("folder", "dict", 14, 1, 0),
    ]
    assert added[0]["sha256"] == hashlib.sha256(b"one\n").hexdigest()
    assert [a["left_out"] for a in added] == [[], [], [{"path": "link", "why": "a symbolic link"}]]
    assert listed(jar) == ["one.txt", "two.txt", "folder"]
    shown = jar("context", "ls")
    assert shown.stdout.splitlines()[2].split() == [
        *(added[2]["sha256"], "dict", "14", "characters", "in", "1", "item", "folder")
    ]
    removed = document(jar("context", "rm", "two.txt", added[2]["sha256"][:12], "--json"))["removed"]
    assert [one["name"] for one in removed] == ["two.txt", "folder"]
    assert listed(jar) == ["one.txt"]


def test_what_people_read(jar: Jar) -> None:
    (jar.work / "folder").mkdir()
    jar.file("folder/a\n.txt", "text")
    (jar.work / "folder" / ".git").mkdir()
    outcome = jar("context", "add", jar.work / "folder", "--name", "mine")
    assert outcome.code == 0
    assert outcome.stdout.split()[1:] == ["dict", "10", "characters", "in", "1", "item", "mine"]
    assert outcome.stderr == "belljar: left out: '.git': version control\n"
    assert jar("context", "rm", "@mine").stdout.split()[1:] == ["mine"]


def test_names_that_an_encoding_has_not_are_escaped(jar: Jar) -> None:
    jar.file("text", "text")
    assert jar("context", "add", jar.work / "text", "--name", "Zürich").code == 0
    listed = jar("context", "ls", env={"PYTHONIOENCODING": "ascii"})
    assert (listed.code, listed.stderr, listed.stdout.split()[-1]) == (0, "", "Z\\xfcrich")


def test_the_command_line_prints_through_one_module() -> None:
    """Where it does not, an encoding or a closed stream is somebody's error."""
    cli = Path(belljar.__file__).parent / "cli"
    assert [path.name for path in cli.glob("*.py") if "click.echo" in path.read_text("utf-8")] == []


def test_a_name_forges_no_row_and_steers_no_terminal(jar: Jar) -> None:
    hostile = jar.file("a\n0000  text\t\x1b]0;owned\x07\u202e.txt", "text")
    for command in (["add", "--quiet", hostile], ["ls"], ["rm", hostile.name]):
        outcome = jar("context", *command)
        assert outcome.code == 0
        assert outcome.stdout.endswith("  a\\n0000  text\\t\\x1b]0;owned\\x07\\u202e.txt\n")
        assert outcome.stdout.count("\n") == 1


def test_names_encodings_and_errors(jar: Jar) -> None:
    latin = jar.file("latin.txt", b"caf\xe9")
    refused = jar("context", "add", latin)
    assert (refused.code, refused.stdout) == (2, "")
    assert "latin.txt' is not UTF-8, at byte 3 (0xe9)" in refused.stderr
    named = document(jar("context", "add", latin, "--encoding", "latin-1", "--name", "menu", "--json"))["contexts"][0]
    assert (named["name"], named["sha256"]) == ("menu", hashlib.sha256("café".encode()).hexdigest())
    replaced = document(jar("context", "add", latin, "--errors", "replace", "--json"))["contexts"][0]
    assert replaced["sha256"] == hashlib.sha256("caf\ufffd".encode()).hexdigest()
    assert jar("context", "add", latin, "--encoding", "base64").code == 2
    assert jar("context", "add", latin, latin, "--name", "two").code == 2
    assert jar("context", "add").code == 2


def test_tenants_do_not_see_each_other(jar: Jar) -> None:
    document(jar("context", "add", jar.file("secret.txt", "secret"), "--tenant", "acme/research", "--json"))
    assert listed(jar) == listed(jar, "--tenant", "acme") == []
    assert listed(jar, "--tenant", "acme/research") == ["secret.txt"]
    digest = hashlib.sha256(b"secret").hexdigest()
    for ref in ("secret.txt", digest, digest[:12]):
        refused = jar("context", "rm", ref)
        assert refused.code == 2
        assert "there is no context" in refused.stderr
    assert jar("context", "ls", "--tenant", "../acme").code == 2


def test_what_is_in_use_is_let_be(jar: Jar) -> None:
    added = document(jar("context", "add", jar.file("used.txt", "used"), jar.file("free.txt", "free"), "--json"))
    with ContextStores(jar.state.contexts).of().open(added["contexts"][0]["sha256"]):
        refused = jar("context", "rm", "used.txt")
        assert (refused.code, refused.stdout) == (4, "")
        assert "is in use by a run; wait until that has ended" in refused.stderr
        swept = document(jar("context", "gc", "--older-than", "0min", "--json"))
    assert ([one["name"] for one in swept["removed"]], swept["in_use"]) == (["free.txt"], 1)
    assert document(jar("context", "gc", "--older-than", "30d", "--json"))["removed"] == []
    assert [line.split()[1] for line in jar("context", "gc", "--older-than", "0d").stdout.splitlines()] == ["used.txt"]


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1w", "1.5d", "", "1d\n"])
def test_ages_that_are_none(jar: Jar, age: str) -> None:
    refused = jar("context", "gc", "--older-than", age)
    assert (refused.code, refused.stdout) == (2, "")
    assert "use one such as 30d, 12h or 45min" in refused.stderr


def test_a_terminal_shows_a_bar(jar: Jar) -> None:
    path = jar.file("large.txt", "a line of text\n" * 4_000_000)
    shown, exit_code = on_a_terminal(BELLJAR, "context", "add", str(path), "--state", str(jar.state.root))
    assert exit_code == 0
    assert "large.txt" in shown
    assert "MB" in shown
    quiet, exit_code = on_a_terminal(
        *(BELLJAR, "context", "add", str(path), "--name", "other", "--quiet", "--state", str(jar.state.root))
    )
    assert (quiet, exit_code) == ("", 0)


def on_a_terminal(*command: str) -> tuple[str, int]:
    """What a command writes to a stderr that is a terminal, and its exit code."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL, env=environ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # how a terminal says that nobody has it open any more
                break
            shown += piece
    os.close(ours)
    return shown.decode(), process.returncode
