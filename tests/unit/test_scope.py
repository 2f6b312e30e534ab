"""A scope from systemd's user manager: when one is asked for, and what is made of it. Folders stand for a kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from belljar.sandbox.cgroup import Cgroups, Place
from belljar.sandbox.scope import delegated, scope_command

USER = "user.slice/user-1000.slice"
MANAGER = f"{USER}/user@1000.service"
SESSION = f"0::/{USER}/session-2.scope\n"
THEIRS = f"0::/{MANAGER}/app.slice/run-r1.scope\n"


class Host:
    """A made-up host of version 2, with a user manager."""

    def __init__(self, folder: Path) -> None:
        self.groups = folder / "cgroup"
        self.scope = self.groups / MANAGER / "app.slice/run-r1.scope"
        self.scope.mkdir(parents=True)
        (self.scope / "cgroup.controllers").write_text("memory pids\n")
        self.unified = self.groups / "cgroup.controllers"
        self.unified.write_text("cpu memory pids\n")
        self.runtime = folder / "run"
        (self.runtime / "systemd").mkdir(parents=True)
        (self.runtime / "systemd/private").touch()
        self._mounts, self._own, self._theirs = folder / "mountinfo", folder / "own", folder / "theirs"
        self._mounts.write_text(f"30 23 0:26 / {self.groups} rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n")

    def command(self, *, there: bool = True) -> tuple[str, ...]:
        environ = {"XDG_RUNTIME_DIR": str(self.runtime)}
        return scope_command(environ, unified=self.unified, which=lambda name: f"/usr/bin/{name}" if there else None)

    def places(self, theirs: str, own: str = SESSION) -> list[Place]:
        self._own.write_text(own)
        self._theirs.write_text(theirs)
        return delegated(4321, mounts=self._mounts, own=self._own, theirs=self._theirs)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_user_with_a_manager_asks_for_a_scope(host: Host) -> None:
    words = host.command()
    assert words[:3] == ("/usr/bin/systemd-run", "--user", "--scope")
    assert "--property=Delegate=yes" in words
    assert words[-1] == "--"


def test_nobody_is_asked_where_there_is_nobody(host: Host) -> None:
    assert host.command(there=False) == ()
    host.unified.unlink()  # version 1, which must not be handed down
    assert host.command() == ()
    host.unified.touch()
    (host.runtime / "systemd/private").unlink()
    assert host.command() == ()
    assert scope_command({}, unified=host.unified, which=lambda name: name) == ()


def test_the_zygote_makes_room_and_the_scope_hands_down_what_it_has(host: Host) -> None:
    (place,) = host.places(THEIRS)
    assert place == Place(host.scope, frozenset({"memory", "pids"}), 2)
    assert (host.scope / "zygote/cgroup.procs").read_text() == "4321"
    assert (host.scope / "cgroup.subtree_control").read_text() == "+memory +pids"
    groups = Cgroups([place])
    # What the manager does not hand down is watched.
    assert (groups.layers, groups.uncounted) == (("cgroup.memory", "cgroup.pids"), ("cpu",))


@pytest.mark.parametrize(
    ("theirs", "own"),
    [
        (SESSION, SESSION),  # it was not moved: the scope is our session's
        (f"0::/{MANAGER}/app.slice/editor.service\n", SESSION),
        ("0::/\n", SESSION),
        ("", SESSION),
        (f"0::/{MANAGER}/app.slice/gone.scope\n", SESSION),
    ],
    ids=["not moved", "a service", "the top", "no table", "gone"],
)
def test_what_is_no_scope_of_its_own_is_left_alone(host: Host, theirs: str, own: str) -> None:
    assert host.places(theirs, own) == []
    assert list(host.groups.rglob("zygote")) == []


def test_a_scope_that_may_not_be_written_is_no_place(host: Host) -> None:
    (host.scope / "cgroup.subtree_control").mkdir()
    assert host.places(THEIRS) == []
