"""What the package imports of others is what it declares to need, and nothing besides."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

from tests.architecture.test_layers import COMMAND, HOST_MODULES, ROOT, roots

# What goes into the box's image is found by name, and not imported.
FOR_THE_IMAGE = {"restrictedpython", "tzdata"}
# For the type checker alone, which brings it along.
STUBS = {"_typeshed"}
# Of the standard library, but of a newer Python than this may be.
NEWER = {"compression"}


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def imported() -> set[str]:
    """The distributions that a module of the package imports something of, at any place in it."""
    known = packages_distributions()
    names = set().union(*map(roots, [COMMAND, *HOST_MODULES])) - {
        *sys.stdlib_module_names,
        "belljar",
        "belljar_command",
        *STUBS,
        *NEWER,
    }
    return {normal(distribution) for name in names for distribution in known.get(name, [name])}


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    return {normal(found[0]) for each in needed if (found := re.match(r"[A-Za-z0-9._-]+", each))}


def test_what_is_optional_is_not_imported_by_default() -> None:
    program = (
        "import sys, belljar.cli, belljar.testing; sys.exit(not sys.modules.keys().isdisjoint(['asyncpg', 'openai']))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_what_is_imported_is_what_is_declared() -> None:
    assert imported() | FOR_THE_IMAGE == declared()


def test_why_each_is_there_is_written_down() -> None:
    told = set(re.findall(r"(?m)^\| `([\w.-]+)`", (ROOT / "CONTRIBUTING.md").read_text("utf-8")))
    assert declared() <= {normal(name) for name in told}
