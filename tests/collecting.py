"""Whether tests that are named somewhere are there: pytest itself is asked, because it alone knows what it collects."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

__all__ = ["collected", "not_collected"]


def collected(files: Iterable[str], root: Path) -> frozenset[str]:
    """Everything that pytest finds in these files of `root`: `FILE::TEST` or `FILE::TEST[PARAMETERS]`."""
    return _collected(tuple(sorted(file for file in set(files) if (root / file).is_file())), root)


@cache
def _collected(files: tuple[str, ...], root: Path) -> frozenset[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    outcome = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return frozenset(line for line in outcome.stdout.splitlines() if "::" in line) if files else frozenset()


def not_collected(names: Iterable[str], root: Path) -> list[str]:
    """Those of `FILE`, `FILE::TEST` and `FILE::TEST[PARAMETERS]` that pytest does not find in `root`."""
    found = collected((name.partition("::")[0] for name in names), root)
    # A test with parameters is named without them where all of them are meant, a file where all its tests are.
    short = {name.partition("[")[0] for name in found} | {name.partition("::")[0] for name in found}
    return sorted(name for name in set(names) if name not in found | short)
