"""The host's devices have the owner, group and mode that they had, whatever a program does and however it ends.

Every program of the corpus is judged by this too (`harness`); here it is the only question, and it is asked of machines
where it can be answered: once a device is nobody's, giving it to nobody again is not to be seen.
"""

from __future__ import annotations

import pytest

from tests.devices import devices, healthy
from tests.escape.harness import Escapes, load_programs

HOSTILE = {
    "lies/raise_an_error_of_the_system",
    "processes/stop_all_that_come_later",
    "processes/many_children_and_an_error",
    "files/touch_the_devices",
    "resources/disk_bytes",
}
PROGRAMS = {program.name: program for program in load_programs() if program.name in HOSTILE}


def test_the_programs_are_there() -> None:
    assert PROGRAMS.keys() == HOSTILE


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_program_changes_no_device_of_the_host(escapes: Escapes, name: str) -> None:
    before = devices()
    assert healthy(), "repair this machine first: chown root:root /dev/null; chmod 666 /dev/null (zero and urandom too)"
    escapes.run(PROGRAMS[name].on(escapes.backend), "python")
    # What a backend does behind the caller's back is done when its containers are gone.
    assert escapes.survivors() == []
    assert devices() == before
