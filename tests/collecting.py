"""Whether tests that are named somewhere are there: pytest itself is asked, because it alone knows what it collects."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["not_collected"]


def not_collected(names: Iterable[str], root: Path) -> list[str]:
    """Those of `FILE`, `FILE::TEST` and `FILE::TEST[PARAMETERS]` that pytest does not find in `root`."""
    wanted = sorted(set(names))
    files = sorted({name.partition("::")[0] for name in wanted if (root / name.partition("::")[0]).is_file()})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    outcome = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    found = {line for line in outcome.stdout.splitlines() if "::" in line} if files else set()
    # A test with parameters is named without them where all of them are meant, a file where all its tests are.
    short = {name.partition("[")[0] for name in found} | {name.partition("::")[0] for name in found}
    return [name for name in wanted if name not in found | short]
