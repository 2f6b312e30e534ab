"""Runs by an ordinary user: nobody's root, and without a control group that could be written.

The interpreter of a developer may lie in a home folder that no other user can look into. So the user may pass through
such folders (CAP_DAC_READ_SEARCH) and nothing else: no group can be made with that, no limit raised, no process killed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.integration.support import Jar, Running, adopting_orphans

__all__ = ["UID", "OrdinaryJar", "ordinary_jar"]

# Nobody's on any machine that we know of.
UID = 54_321
_AS_THEM = (
    *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--bounding-set=-all,+dac_read_search"),
)


class OrdinaryJar(Jar):
    """A `Jar` whose commands are run by somebody without rights. Needs root, to become somebody else."""

    def __init__(self, folder: Path, images: Path) -> None:
        super().__init__(folder, images)
        for path in (self.at, self.work):
            os.chown(path, UID, UID)

    def start(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, before: tuple[str, ...] = ()
    ) -> Running:
        return super().start(*arguments, env=env, before=(*_AS_THEM, *before))


def ordinary_jar(folder: Path, images: Path) -> Iterator[Jar]:
    """For a fixture: a state folder of an ordinary user's, checked when the test is over."""
    if os.geteuid() != 0:
        with adopting_orphans():
            jar = Jar(folder, images)  # that is what we are
            yield jar
            jar.check()
        return
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv, to become an ordinary user")
    # What pytest gives is for its own user alone.
    with tempfile.TemporaryDirectory(prefix="belljar-ordinary-") as open_to_all, adopting_orphans():
        os.chmod(open_to_all, 0o755)
        theirs = OrdinaryJar(Path(open_to_all), images)
        yield theirs
        theirs.check()
