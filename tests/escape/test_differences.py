"""Where a backend differs from the jail, SECURITY.md says so, and a check or a guest program shows it."""

from __future__ import annotations

import re
from pathlib import Path

from belljar.sandbox.conformance import checks
from tests.escape.harness import BackendName, load_programs

SECURITY = Path(__file__).resolve().parents[2] / "SECURITY.md"
# | `name` | where | ...
ROW = re.compile(r"^\| `(\w+)` \| (both|Docker|gVisor) \| \S", re.MULTILINE)
WHERE: dict[str, set[BackendName]] = {"both": {"docker", "gvisor"}, "Docker": {"docker"}, "gVisor": {"gvisor"}}
# A layer that a backend has not got; the conformance tests assert that it does not claim it.
MISSING: dict[str, set[BackendName]] = {"landlock": {"gvisor"}}


def listed() -> dict[str, set[BackendName]]:
    """What SECURITY.md says, by the name of the difference."""
    return {name: WHERE[where] for name, where in ROW.findall(SECURITY.read_text("utf-8"))}


def shown() -> dict[str, set[BackendName]]:
    """What programs and checks say."""
    found = {name: set(where) for name, where in MISSING.items()}
    for program in load_programs():
        for backend, instead in program.instead.items():
            found.setdefault(instead.why.partition(":")[0], set()).add(backend)
    for check in checks():
        for one in check.instead:
            assert one.layer == "gvisor", f"{check.name}: a layer of what backend?"
            found.setdefault(one.difference, set()).add("gvisor")
    return found


def test_security_lists_every_difference_and_no_other() -> None:
    assert shown() == listed()


def test_a_difference_comes_with_a_reason() -> None:
    for program in load_programs():
        for instead in program.instead.values():
            assert re.fullmatch(r"\w+: \S.{15,}", instead.why), program.name
    for check in checks():
        assert all(len(one.why) > 15 for one in check.instead), check.name


def test_differences_are_few() -> None:
    programs = load_programs()
    assert sum(bool(program.instead) for program in programs) < len(programs) / 8
    assert sum(bool(check.instead) for check in checks()) < len(checks()) / 8
