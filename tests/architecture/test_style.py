"""Style that a machine can judge, so that no review has to."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = ("runtime", "sandbox_images", "tests", "benchmarks")
FUNCTION_LINES_MAX = 60

# Where somebody worked is nobody's business; and the project installs from whatever index its user has.
PLACES = re.compile(r"/(?:work|root)/|/home/\w|\b(?:pypi|pythonhosted|npmjs|crates|docker|quay|ghcr)\.(?:org|com|io)\b")
SUPPRESSION = re.compile(r"#\s*type:\s*ignore(?!\[[a-z-]+(?:,\s*[a-z-]+)*\])|#\s*noqa(?!:\s*[A-Z])|#\s*mypy:\s*ignore")


def tracked() -> list[Path]:
    """What belongs to the project: the files that git knows, or, in an unpacked archive, all that is not made."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]
    made = {".venv", "__pycache__", ".git", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not made & set(path.parts)]


FILES = tracked()
# Below the kinds of tests lie programs for the box: what a model might write, in no style of ours.
SOURCES = [
    path
    for path in FILES
    if path.suffix == ".py"
    and (parts := path.relative_to(ROOT).parts)[0] in OURS
    and (parts[0], len(parts) > 3) != ("tests", True)
]


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_is_something_to_judge() -> None:
    assert ROOT / "runtime/belljar/wire.py" in SOURCES
    assert Path(__file__) in SOURCES


def test_a_function_fits_on_a_page() -> None:
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    found.append(f"{shown(path)}:{node.lineno}: {node.name} has {lines} lines")
    assert found == []


def test_a_module_says_what_it_is() -> None:
    trees = {path: ast.parse(path.read_text("utf-8")) for path in SOURCES}
    assert [shown(path) for path, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


def test_a_check_is_switched_off_by_name_only() -> None:
    found = []
    for path in SOURCES:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            if SUPPRESSION.search(line) and path != Path(__file__):
                found.append(f"{shown(path)}:{number}: {line.strip()}")
    assert found == []


def test_no_file_names_a_workplace_or_a_registry() -> None:
    found = []
    for path in FILES:
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), start=1):
            if PLACES.search(line):
                found.append(f"{shown(path)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_the_source_root_is_no_package() -> None:
    assert not (ROOT / "runtime" / "__init__.py").exists()
    assert [shown(path) for path in FILES if path.name == "__init__.py" and "tests" in path.parts] == []


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in SOURCES if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))
