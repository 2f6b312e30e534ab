"""Every block of code in README and docs runs here, and what it is said to print is what it prints.

A block's language says what is done with it:

* `python` runs in a fresh process, `python box` in a box, as a cell of `belljar exec`. The block `output` behind it, if
  there is one, is all that it prints.
* `console` is a shell: a line that starts with `$ ` is a command, what follows it is its output (stdout, and stderr
  where the command is to fail: then `[exit code N]` is its last line).
* `toml` is a policy, `toml config` a host's configuration, `toml prices` a file for `--prices`, `toml script` one for
  `scripted:FILE`.
* `text` is a diagram, which nobody runs.

Each block has a state folder and a working folder of its own, in which lie `FILES`, the policies of its document, and
its blocks of Python that begin with `# NAME.py`. In an output `...` stands for anything.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from belljar.config import read_config
from belljar.models import Prices, ScriptedModel
from belljar.policy import load
from tests.integration.support import PATIENCE_S, Jar, named_files

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
README_BYTES_MAX = 9000
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
KINDS = frozenset(
    {"python", "python box", "output", "console", "toml", "toml config", "toml prices", "toml script", "text"}
)

FILES: dict[str, bytes] = {
    "log.txt": b"disk full\nlogin ok\nnet is down\n",
    "latin.txt": b"caf\xe9",
    "rows.jsonl": b'{"id": 1}\n"two"\n',
    "src/app.py": b'print("hello")\n',
    "program.py": b'lines = list(context.lines())\nprint(len(lines), "lines")\nFINAL({"lines": len(lines)})\n',
    "reader.py": b'print(len(str(context)), "characters read")\n',
    "rows.py": b"print(len(context), context[0])\n",
    "turns.toml": b"""
[[turn]]
text = '''
```repl
FINAL(llm_query("Which city?"))
```
'''
[[reply]]
when = "city"
text = "Paris"
[[turn]]
text = '''
```repl
FINAL(f"{len(context)} characters")
```
'''
""",
    "loose.toml": b'schema = 1\nname = "loose"\nextends = "standard"\n[limits]\ncell_wall = "2 h"\n',
}

_FENCE = re.compile(r"^(?P<fence>`{3,})(?P<kind>[^`\n]*)\n(?P<text>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?P<place>[^)#\s]*)(?:#(?P<heading>[^)\s]*))?\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_EXIT_CODE = re.compile(r"\[exit code (\d+)\]\n\Z")


@dataclass(frozen=True)
class Block:
    document: Path
    line: int
    kind: str
    text: str
    output: str | None = None

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def blocks(document: Path, text: str) -> list[Block]:
    """The fenced blocks of a document; an `output` belongs to the block before it."""
    found: list[Block] = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        block = Block(document, line, match["kind"].strip(), match["text"])
        if block.kind == "output":
            before = found.pop()
            block = Block(before.document, before.line, before.kind, before.text, block.text)
        found.append(block)
    return found


def same(printed: str, shown: str) -> bool:
    """Whether this was printed, but for white space at the ends of lines, and for what `...` stands for."""
    pattern = ".*?".join(re.escape(part) for part in _stripped(shown).split("..."))
    return re.fullmatch(pattern, _stripped(printed), re.DOTALL) is not None


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of a console, each with the output that is shown for it."""
    _, *parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


def _stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _headings(document: Path) -> set[str]:
    titles = _HEADING.findall(_FENCE.sub("", document.read_text()))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


BLOCKS = [block for document in DOCUMENTS for block in blocks(document, document.read_text())]


def _of(*kinds: str) -> list[Block]:
    return [block for block in BLOCKS if block.kind in kinds]


@pytest.fixture
def folder(jar: Jar) -> Jar:
    """A state folder whose working folder has the files that the documents speak of."""
    for name, content in FILES.items():
        (jar.work / name).parent.mkdir(exist_ok=True)
        jar.file(name, content)
    return jar


def _run(jar: Jar, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=jar.work,
        env=jar.environ({"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


@pytest.mark.parametrize("block", _of("python"), ids=str)
def test_a_block_of_python_prints_what_it_is_said_to_print(folder: Jar, block: Block) -> None:
    for name, text in named_files(block.document).items():
        folder.file(name, text)
    done = _run(folder, sys.executable, "-W", "error", folder.file("block.py", block.text))
    assert done.returncode == 0, done.stderr
    assert block.output is None or same(done.stdout, block.output), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("block", [one for one in _of("python") if '"serve"' in one.text], ids=str)
def test_a_program_that_starts_a_service_does_so_again_with_the_same_state(folder: Jar, block: Block) -> None:
    file = folder.file("block.py", block.text)
    for _ in range(2):
        done = _run(folder, sys.executable, "-W", "error", file)
        assert done.returncode == 0, done.stderr
        assert block.output is None or same(done.stdout, block.output), done.stdout


@pytest.mark.parametrize("block", _of("python box"), ids=str)
def test_a_block_of_guest_code_prints_what_it_is_said_to_print(folder: Jar, block: Block) -> None:
    given = ("--context", "log.txt", "--model", "scripted:turns.toml", "--quiet")
    done = _run(folder, "belljar", "exec", folder.file("block.py", block.text), *given)
    assert done.returncode == 0, done.stderr
    assert block.output is None or same(done.stdout, block.output), done.stdout


@pytest.mark.parametrize("block", _of("console"), ids=str)
def test_a_console_shows_what_its_commands_print(folder: Jar, block: Block) -> None:
    for policy in (one for one in _of("toml") if one.document == block.document):
        folder.file(f"{tomllib.loads(policy.text)['name']}.toml", policy.text)
    for command, shown in commands(block.text):
        done = _run(folder, "bash", "-c", command)
        code = _EXIT_CODE.search(shown)
        expected = _EXIT_CODE.sub("", shown)
        assert done.returncode == (int(code[1]) if code else 0), f"{command}\n{done.stderr}"
        assert same(done.stdout + (done.stderr if code else ""), expected), f"{command}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("block", _of("toml", "toml config", "toml prices", "toml script"), ids=str)
def test_a_file_that_is_shown_is_valid(tmp_path: Path, block: Block) -> None:
    file = tmp_path / "block.toml"
    file.write_text(block.text)
    if block.kind == "toml":
        load(file)
    elif block.kind == "toml config":
        read_config(file)
    elif block.kind == "toml prices":
        Prices.load(file)
    else:
        assert ScriptedModel.load(file).scripted


# -------------------------------------------------------------------------------------------------- the documents' form


def test_every_block_has_a_language_that_says_what_to_do_with_it() -> None:
    assert {str(block): block.kind for block in BLOCKS if block.kind not in KINDS} == {}
    assert {block.kind for block in BLOCKS} == KINDS - {"output"}


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md"], ids=lambda d: d.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    broken = []
    for link in _LINK.finditer(_FENCE.sub("", document.read_text())):
        target = (document.parent / link["place"]).resolve() if link["place"] else document
        if not target.exists() or (link["heading"] and link["heading"] not in _headings(target)):
            broken.append(link[0])
    assert broken == []


def test_the_readme_is_short_and_leads_to_every_document() -> None:
    text = README.read_text()
    assert len(text.encode()) < README_BYTES_MAX
    linked = {link["place"] for link in _LINK.finditer(text)}
    assert {f"docs/{document.name}" for document in DOCUMENTS[1:]} <= linked


# ----------------------------------------------------------------------------------------------- the check itself works


def test_blocks_are_found_with_their_outputs() -> None:
    text = "a\n```python\nprint(1)\n```\n\n```output\n1\n```\n````toml script\n```repl\n```\n````\n"
    assert [(b.line, b.kind, b.text, b.output) for b in blocks(README, text)] == [
        (2, "python", "print(1)\n", "1\n"),
        (9, "toml script", "```repl\n```\n", None),
    ]


@pytest.mark.parametrize(
    ("printed", "shown", "is_same"),
    [
        ("a\n", "a\n", True),
        ("a \n\n", "a", True),
        ("a b c", "a ... c", True),
        ("a\nb\nc", "a\n...\nc", True),
        ("a", "b", False),
        ("ab", "a", False),
        ("a.c", "abc", False),
        ("", "a", False),
    ],
)
def test_an_output_is_compared(printed: str, shown: str, is_same: bool) -> None:
    assert same(printed, shown) is is_same


def test_a_console_is_its_commands() -> None:
    assert commands("$ one\n$ two\nout\nput\n") == [("one", ""), ("two", "out\nput\n")]
