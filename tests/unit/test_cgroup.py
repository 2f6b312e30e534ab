"""Control groups: where they can be made (from recorded tables of other hosts), what is written into them and read from
them (in folders that stand for a kernel), and that this kernel then does what it should (in groups of the test's own).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from belljar.errors import BoxFault
from belljar.sandbox.base import BoxSpec, Evidence
from belljar.sandbox.cgroup import BoxGroup, Cgroups, Place, _limit, find_places

MIB = 2**20
SPEC = BoxSpec(
    cpu_s=10,
    memory_bytes=64 * MIB,
    processes=5,
    scratch_bytes=MIB,
    scratch_files=16,
    open_files=16,
    requires=(),
)
ALL = frozenset({"memory", "cpu", "pids"})

# ------------------------------------------------------------------------------------------------------ recorded tables

V1 = """\
23 1 0:20 / / rw,relatime - ext4 /dev/vda rw
31 23 0:28 / {at} rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / {at}/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / {at}/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
34 31 0:31 / {at}/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 / {at}/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:34 / {at}/freezer rw,relatime - cgroup cgroup rw,freezer
39 31 0:36 / {at}/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / {at}/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / {at}/unified rw,relatime - cgroup2 cgroup2 rw
"""
V1_OWN = "9:name=systemd:/\n8:pids:/\n6:freezer:/\n4:memory:/jobs/one\n3:cpuset:/\n2:cpuacct:/\n1:cpu:/\n0::/\n"

HYBRID = """\
25 30 0:23 / {at} ro,nosuid,nodev,noexec shared:8 - tmpfs tmpfs ro,size=4096k,nr_inodes=1024,mode=755
26 25 0:24 / {at}/unified rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
27 25 0:25 / {at}/systemd rw,nosuid,nodev,noexec,relatime shared:10 - cgroup cgroup rw,xattr,name=systemd
30 25 0:28 / {at}/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:15 - cgroup cgroup rw,cpu,cpuacct
33 25 0:31 / {at}/memory rw,nosuid,nodev,noexec,relatime shared:18 - cgroup cgroup rw,memory
36 25 0:34 / {at}/pids rw,nosuid,nodev,noexec,relatime shared:21 - cgroup cgroup rw,pids
"""
HYBRID_OWN = """\
9:memory:/user.slice/user-1000.slice/session-2.scope
6:pids:/user.slice/user-1000.slice/session-2.scope
4:cpu,cpuacct:/user.slice
1:name=systemd:/user.slice/user-1000.slice/session-2.scope
0::/user.slice/user-1000.slice/session-2.scope
"""

DOCKER_V1 = """\
700 650 0:90 / {at} ro,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=755
701 700 0:29 /docker/0a1b2c {at}/cpu ro,nosuid,nodev,noexec,relatime master:12 - cgroup cgroup rw,cpu
702 700 0:32 /docker/0a1b2c {at}/memory ro,nosuid,nodev,noexec,relatime master:15 - cgroup cgroup rw,memory
703 700 0:36 /docker/0a1b2c {at}/pids ro,nosuid,nodev,noexec,relatime master:19 - cgroup cgroup rw,pids
"""
DOCKER_V1_OWN = "8:pids:/docker/0a1b2c\n4:memory:/docker/0a1b2c/inner\n1:cpu:/docker/0a1b2c\n"

V2 = "30 23 0:26 / {at} rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


class Host:
    """A made-up host below `folder`: its two tables, and for version 2 its tree of handed-down controllers."""

    def __init__(self, folder: Path) -> None:
        self.at = folder / "cgroup"
        self.at.mkdir()
        self._mounts, self._own = folder / "mountinfo", folder / "own"

    def group(self, path: str, handed: str) -> None:
        """A version 2 group that hands these controllers down."""
        folder = self.at / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.subtree_control").write_text(f"{handed}\n")

    def places(self, mounts: str, own: str) -> list[Place]:
        self._mounts.write_text(mounts.format(at=self.at))
        self._own.write_text(own)
        return find_places(self._mounts, self._own)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_version_1_has_a_place_for_each_controller_below_our_own_group(host: Host) -> None:
    assert host.places(V1, V1_OWN) == [
        Place(host.at / "cpu", frozenset({"cpu"}), 1),
        Place(host.at / "cpuacct", frozenset({"cpuacct"}), 1),
        Place(host.at / "memory/jobs/one", frozenset({"memory"}), 1),
        Place(host.at / "pids", frozenset({"pids"}), 1),
    ]


def test_hybrid_uses_version_1_and_its_shared_controllers(host: Host) -> None:
    session = "user.slice/user-1000.slice/session-2.scope"
    host.group("unified/user.slice/user-1000.slice", "")
    assert host.places(HYBRID, HYBRID_OWN) == [
        Place(host.at / "cpu,cpuacct/user.slice", frozenset({"cpu", "cpuacct"}), 1),
        Place(host.at / "memory" / session, frozenset({"memory"}), 1),
        Place(host.at / "pids" / session, frozenset({"pids"}), 1),
    ]


def test_inside_a_container_the_mount_shows_its_own_part_of_the_tree(host: Host) -> None:
    assert host.places(DOCKER_V1, DOCKER_V1_OWN) == [
        Place(host.at / "cpu", frozenset({"cpu"}), 1),
        Place(host.at / "memory/inner", frozenset({"memory"}), 1),
        Place(host.at / "pids", frozenset({"pids"}), 1),
    ]


def test_version_2_at_the_root(host: Host) -> None:
    host.group("", "cpuset cpu io memory hugetlb pids")
    assert host.places(V2, "0::/\n") == [Place(host.at, ALL, 2)]


def test_version_2_beside_a_service(host: Host) -> None:
    host.group("", "cpu io memory pids")
    host.group("system.slice", "memory pids")
    expected = Place(host.at / "system.slice", frozenset({"memory", "pids"}), 2)
    assert host.places(V2, "0::/system.slice/belljar.service\n") == [expected]


def test_version_2_delegated_to_a_user(host: Host) -> None:
    user = "user.slice/user-1000.slice/user@1000.service"
    for path in ("", "user.slice", "user.slice/user-1000.slice", user, f"{user}/app.slice"):
        host.group(path, "cpu memory pids")
    own = f"0::/{user}/app.slice/run-r1.scope\n"
    assert host.places(V2, own) == [Place(host.at / user / "app.slice", ALL, 2)]


def test_version_2_whose_parent_hands_nothing_down_takes_the_top(host: Host) -> None:
    host.group("", "cpu memory pids")
    host.group("user.slice", "")
    assert host.places(V2, "0::/user.slice/session-1.scope\n") == [Place(host.at, ALL, 2)]


def test_version_2_in_a_container_of_its_own_has_no_place(host: Host) -> None:
    # The container's processes live in its root, so it can hand nothing down, and it shows nothing above.
    host.group("", "")
    assert host.places(V2, "0::/\n") == []
    assert host.places(V2, "0::/../../other\n") == []


@pytest.mark.parametrize("own", ["", "0::/\n", V1_OWN], ids=["empty", "version 2", "version 1"])
def test_a_host_without_control_groups_has_no_place(host: Host, own: str) -> None:
    assert host.places("23 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda rw\n", own) == []


def test_tables_that_cannot_be_read_are_no_place(tmp_path: Path) -> None:
    assert find_places(tmp_path / "none", tmp_path / "none") == []


def test_this_host_s_tables_can_be_read() -> None:
    for place in find_places():
        assert place.version in (1, 2)
        assert place.controllers


# ----------------------------------------------------------------------------------- a folder that stands for a kernel


def v1_places(folder: Path, *controllers: str) -> list[Place]:
    places = [Place(folder / name, frozenset({name}), 1) for name in controllers]
    for place in places:
        place.folder.mkdir()
    return places


def only_box(place: Place) -> Path:
    (box,) = place.folder.glob("belljar-*/box-*")
    return box


def written(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_limits_are_written_in_version_1(tmp_path: Path) -> None:
    places = v1_places(tmp_path, "memory", "cpu", "cpuacct", "pids")
    groups = Cgroups(places)
    assert groups.layers == ("cgroup.memory", "cgroup.cpu", "cgroup.pids")
    groups.create(SPEC)
    assert [written(only_box(place)) for place in places] == [
        {"memory.limit_in_bytes": str(64 * MIB), "memory.memsw.limit_in_bytes": str(64 * MIB)},
        {"cpu.cfs_quota_us": "100000"},
        {},
        {"pids.max": "5"},
    ]


def test_limits_are_written_in_version_2(tmp_path: Path) -> None:
    place = Place(tmp_path, ALL, 2)
    groups = Cgroups([place])
    assert groups.layers == ("cgroup.memory", "cgroup.cpu", "cgroup.pids")
    groups.create(SPEC)
    box = only_box(place)
    assert (box.parent / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert written(box) == {
        "memory.max": str(64 * MIB),
        "memory.swap.max": "0",
        "pids.max": "5",
        "cpu.max": "100000 100000",
    }


@pytest.mark.parametrize(
    ("there", "layers"),
    [
        ([], ()),
        (["memory"], ("cgroup.memory",)),
        (["pids", "cpuacct"], ("cgroup.pids",)),
        (["cpu", "pids"], ("cgroup.cpu", "cgroup.pids")),
    ],
)
def test_layers_are_those_of_the_controllers_that_can_be_used(
    tmp_path: Path, there: Sequence[str], layers: tuple[str, ...]
) -> None:
    absent = [Place(tmp_path / "absent" / name, frozenset({name}), 1) for name in ("memory", "cpu", "pids")]
    groups = Cgroups([*absent, *v1_places(tmp_path, *there)])
    assert groups.layers == layers
    groups.create(SPEC)
    assert len(list(tmp_path.glob("*/belljar-*/box-*"))) == len(there)


def test_version_2_that_takes_no_controller_is_not_used_and_leaves_no_group(tmp_path: Path) -> None:
    # A folder where the control file should be refuses to be written, as the kernel does.
    class Refusing(Cgroups):
        def _usable(self, place: Place) -> bool:
            (place.folder / self._own / "cgroup.subtree_control").mkdir(parents=True)
            usable = super()._usable(place)
            (place.folder / self._own / "cgroup.subtree_control").rmdir()
            return usable

    assert Refusing([Place(tmp_path, ALL, 2)]).layers == ()


class NoWord(Cgroups):
    """On a kernel that does not let swap be forbidden: folders stand where the control files should be."""

    def _usable(self, place: Place) -> bool:
        usable = super()._usable(place)
        for name in ("memory.swappiness", "memory.swap.max"):
            (place.folder / self._own / name).mkdir()
        return usable


@pytest.mark.skipif(not Path("/proc/swaps").exists(), reason="this kernel knows no swap")
@pytest.mark.parametrize("version", [1, 2])
def test_memory_with_swap_as_a_way_out_is_no_layer(tmp_path: Path, version: int) -> None:
    groups = NoWord([Place(tmp_path, ALL, version)])
    assert groups.layers == ("cgroup.cpu", "cgroup.pids")
    assert groups.uncounted == ("memory",)


def test_memory_whose_swap_is_counted_is_a_layer(tmp_path: Path) -> None:
    class Counted(NoWord):
        def _usable(self, place: Place) -> bool:
            usable = super()._usable(place)
            (place.folder / self._own / "memory.memsw.limit_in_bytes").touch()
            return usable

    assert Counted([Place(tmp_path, ALL, 1)]).uncounted == ()


def test_a_box_swaps_nothing_where_swap_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "memory.memsw.limit_in_bytes").mkdir()  # refuses to be written, as a file that is not there
    _limit(Place(tmp_path.parent, frozenset({"memory"}), 1), tmp_path, SPEC)
    assert (tmp_path / "memory.swappiness").read_text() == "0"


def test_without_any_group_there_is_no_evidence_and_no_layer() -> None:
    groups = Cgroups([])
    assert groups.layers == ()
    group = groups.create(SPEC)
    with group.doors() as doors:
        assert doors == []
    assert group.evidence() == Evidence()
    group.remove()
    groups.aclose()


def test_evidence_is_parsed_in_version_1(tmp_path: Path) -> None:
    places = v1_places(tmp_path, "memory", "cpu", "cpuacct", "pids")
    group = Cgroups(places).create(SPEC)
    memory, cpu, cpuacct, pids = (only_box(place) for place in places)
    (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (memory / "memory.max_usage_in_bytes").write_text("67108864\n")
    (cpu / "cpu.stat").write_text("nr_periods 9\nnr_throttled 1\nthrottled_time 5\n")
    (cpuacct / "cpuacct.usage").write_text("1234567890\n")
    (pids / "pids.events").write_text("max 7\n")
    expected = Evidence(cpu_s=1.23456789, memory_peak_bytes=64 * MIB, memory_kills=3, tasks_refused=7)
    assert group.evidence() == expected


def test_evidence_is_parsed_in_version_2(tmp_path: Path) -> None:
    place = Place(tmp_path, ALL, 2)
    group = Cgroups([place]).create(SPEC)
    box = only_box(place)
    (box / "memory.events").write_text("low 0\nhigh 0\nmax 20\noom 2\noom_kill 1\noom_group_kill 0\n")
    (box / "memory.peak").write_text("1000\n")
    (box / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n")
    (box / "pids.events").write_text("max 0\n")
    assert group.evidence() == Evidence(cpu_s=2.5, memory_peak_bytes=1000, memory_kills=1, tasks_refused=0)
    # An older kernel keeps no peak; the rest counts all the same.
    (box / "memory.peak").unlink()
    assert group.evidence() == Evidence(cpu_s=2.5, memory_peak_bytes=None, memory_kills=1, tasks_refused=0)


def test_a_controller_that_is_not_there_is_not_counted(tmp_path: Path) -> None:
    (place,) = v1_places(tmp_path, "pids")
    group = Cgroups([place]).create(SPEC)
    (only_box(place) / "pids.events").write_text("max 2\n")
    assert group.evidence() == Evidence(tasks_refused=2)


def test_a_group_that_has_vanished_gives_no_evidence(tmp_path: Path) -> None:
    place = Place(tmp_path, ALL, 2)
    group = Cgroups([place]).create(SPEC)
    box = only_box(place)
    for path in box.iterdir():
        path.unlink()
    box.rmdir()
    assert group.evidence() == Evidence()
    group.remove()


def test_a_group_that_cannot_be_made_is_our_fault_and_leaves_no_other(tmp_path: Path) -> None:
    places = v1_places(tmp_path, "cpuacct", "pids")
    groups = Cgroups(places)
    (own,) = places[1].folder.glob("belljar-*")
    own.rmdir()
    with pytest.raises(BoxFault, match="no control group for a box"):
        groups.create(SPEC)
    assert list(places[0].folder.glob("belljar-*/box-*")) == []
    # Made ahead it is nobody's fault yet.
    groups.prepare(SPEC)
    with pytest.raises(BoxFault):
        groups.take(SPEC)


def test_a_group_made_ahead_is_taken_once_and_only_for_its_limits(tmp_path: Path) -> None:
    (place,) = v1_places(tmp_path, "cpuacct")
    groups = Cgroups([place])
    groups.prepare(SPEC)
    groups.prepare(SPEC)
    assert only_box(place).name == "box-1"
    groups.take(SPEC)
    groups.take(SPEC)
    assert sorted(box.name for box in place.folder.glob("*/box-*")) == ["box-1", "box-2"]


def test_two_of_one_process_have_groups_of_their_own(tmp_path: Path) -> None:
    (place,) = v1_places(tmp_path, "cpuacct")
    one, other = Cgroups([place]), Cgroups([place])
    one.create(SPEC)
    other.create(SPEC)
    assert len(list(place.folder.glob("belljar-*/box-1"))) == 2
    one.aclose()
    assert len(list(place.folder.glob("belljar-*/box-1"))) == 1
    assert other.reap() == 0
    assert len(list(place.folder.glob("belljar-*/box-1"))) == 1


# ------------------------------------------------------------------------------------------------------ on this kernel


@pytest.fixture
def places() -> Iterator[list[Place]]:
    """Places of the test's own, below those that this host gives: nobody else looks for leftovers there."""
    found: list[Place] = []
    for place in find_places():
        folder = place.folder / f"test-of-control-groups-{os.getpid()}"
        with contextlib.suppress(OSError):
            folder.mkdir()
            if place.version == 2:
                wanted = " ".join(f"+{name}" for name in sorted(place.controllers))
                (folder / "cgroup.subtree_control").write_text(wanted)
            found.append(Place(folder, place.controllers, place.version))
    assert found, "these tests need a host on which they may make control groups"
    yield found
    for place in found:
        place.folder.rmdir()


@pytest.fixture
def groups(places: list[Place]) -> Iterator[Cgroups]:
    groups = Cgroups(places)
    yield groups
    groups.aclose()


INTO_THE_GROUP = "import os, sys\nfor door in map(int, sys.argv[1:]): os.write(door, b'0')\n"


def start_in(group: BoxGroup, code: str) -> subprocess.Popen[bytes]:
    """A Python process that has put itself into the group, as a box does."""
    with group.doors() as doors:
        command = [sys.executable, "-I", "-S", "-c", INTO_THE_GROUP + code, *map(str, doors)]
        process = subprocess.Popen(command, pass_fds=doors, stdout=subprocess.PIPE)
        assert process.stdout is not None
        return process


def run_in(group: BoxGroup, code: str) -> tuple[int, bytes]:
    process = start_in(group, code)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def sleeper_in(group: BoxGroup) -> subprocess.Popen[bytes]:
    process = start_in(group, "print('in', flush=True)\nimport time\ntime.sleep(300)")
    assert process.stdout is not None
    assert process.stdout.readline() == b"in\n"
    return process


def sleeper_at(folders: Sequence[Path]) -> subprocess.Popen[bytes]:
    """A sleeping process in groups that were made by hand."""
    return sleeper_in(BoxGroup([(Place(folder.parent, frozenset(), 1), folder) for folder in folders]))


def test_memory_is_limited_and_the_kill_is_counted(groups: Cgroups) -> None:
    group = groups.create(SPEC)
    status, _ = run_in(group, "data = []\nwhile True: data.append(b'x' * 2**20)")
    assert status == -signal.SIGKILL
    evidence = group.evidence()
    assert evidence.memory_kills == 1
    assert evidence.memory_peak_bytes is not None
    assert 32 * MIB < evidence.memory_peak_bytes <= SPEC.memory_bytes
    group.remove()


def test_memory_within_the_limit_is_nobody_s_business(groups: Cgroups) -> None:
    group = groups.create(SPEC)
    assert run_in(group, "data = b'x' * 2**24\nprint(len(data))") == (0, b"16777216\n")
    evidence = group.evidence()
    assert evidence.memory_kills == 0
    assert (evidence.memory_peak_bytes or 0) > 16 * MIB
    group.remove()


def test_processes_are_limited_and_refusals_are_counted(groups: Cgroups) -> None:
    group = groups.create(SPEC)
    code = """\
import time
made = 0
for _ in range(8):
    try: pid = os.fork()
    except OSError: continue
    if pid == 0: time.sleep(300)
    made += 1
print(made, flush=True)
"""
    process = start_in(group, code)
    assert process.stdout is not None
    assert process.stdout.readline() == b"4\n"
    assert group.evidence().tasks_refused == 4
    process.wait()
    group.remove()
    process.stdout.close()


@pytest.mark.slow
def test_processors_are_limited_and_time_is_counted(groups: Cgroups) -> None:
    group = groups.create(SPEC)
    started = time.monotonic()
    busy = "import time\nuntil = time.monotonic() + 1\nos.fork()\nos.fork()\nwhile time.monotonic() < until: pass"
    assert run_in(group, busy)[0] == 0
    took_s, used_s = time.monotonic() - started, group.evidence().cpu_s
    assert used_s is not None
    # One processor, and a period of a tenth of a second to begin with.
    assert 0 < used_s <= took_s + 0.2
    group.remove()


def test_removing_kills_who_is_in_it(groups: Cgroups, places: list[Place]) -> None:
    group = groups.create(SPEC)
    process = sleeper_in(group)
    group.remove()
    assert process.wait(60) == -signal.SIGKILL
    assert process.stdout is not None
    process.stdout.close()
    assert [list(place.folder.glob("*/box-*")) for place in places] == [[]] * len(places)
    group.remove()


def test_nobody_gets_into_a_group_that_is_gone(groups: Cgroups) -> None:
    group = groups.create(SPEC)
    with group.doors() as doors:
        group.remove()
        for door in doors:
            with pytest.raises(OSError, match="No such device"):
                os.write(door, b"0")


# ------------------------------------------------------------------------------------------------------- the next start


def identity(pid: int) -> str:
    """PID and start in clock ticks, by the field's number in the kernel's documentation (22), counted from the name."""
    return f"{pid}-{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[22 - 3]}"


NAMESPACE = os.stat("/proc/self/ns/pid").st_ino


def dead_owner() -> str:
    with subprocess.Popen(["sleep", "300"]) as process:
        name = identity(process.pid)
        process.kill()
    return f"belljar-{name}-{NAMESPACE}-1"


def made(places: list[Place], name: str) -> list[Path]:
    folders = [place.folder / name / "box-1" for place in places]
    for place, folder in zip(places, folders, strict=True):
        folder.parent.mkdir()
        if place.version == 2:
            (folder.parent / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in place.controllers))
        folder.mkdir()
    return folders


def unmade(folders: list[Path]) -> None:
    for folder in folders:
        folder.rmdir()
        folder.parent.rmdir()


def test_what_a_dead_process_left_is_killed_and_removed(groups: Cgroups, places: list[Place]) -> None:
    folders = made(places, dead_owner())
    with sleeper_at(folders) as process:
        assert groups.reap() == len(places)
        assert process.wait(60) == -signal.SIGKILL
    assert not any(folder.parent.exists() for folder in folders)
    assert groups.reap() == 0


def test_a_later_process_with_the_same_number_does_not_protect_what_was_left(
    groups: Cgroups, places: list[Place]
) -> None:
    folders = made(places, f"belljar-{os.getpid()}-1-{NAMESPACE}-1")
    assert groups.reap() == len(places)
    assert not any(folder.parent.exists() for folder in folders)


OTHERS = {
    "a living process's": lambda: f"belljar-{identity(os.getppid())}-{NAMESPACE}-1",
    "our own, of another jail": lambda: f"belljar-{identity(os.getpid())}-{NAMESPACE}-99999",
    "of another pid namespace": lambda: dead_owner().replace(str(NAMESPACE), "4026000000"),
    "a name that only begins like ours": lambda: "belljar-data",
    "a name with too few words": lambda: "belljar-1-2",
    "somebody else's": lambda: "machine-1-2-3-4",
}


@pytest.mark.parametrize("name", OTHERS.values(), ids=OTHERS)
def test_other_groups_are_not_touched(groups: Cgroups, places: list[Place], name: object) -> None:
    assert callable(name)
    folders = made(places, name())
    with sleeper_at(folders) as process:
        assert groups.reap() == 0
        assert process.poll() is None
        process.kill()
    unmade(folders)


@pytest.mark.slow
def test_reaping_at_once_from_two_sides_is_no_accident(groups: Cgroups, places: list[Place]) -> None:
    code = """\
import sys
from pathlib import Path
from belljar.sandbox.cgroup import Cgroups, Place
groups = Cgroups([Place(Path(folder), frozenset(), 1) for folder in sys.argv[1:]])
print("ready", flush=True)
sys.stdin.readline()
groups.reap()
groups.aclose()
"""
    command = [sys.executable, "-c", code, *(str(place.folder) for place in places)]
    others = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    left = [folder for _ in range(20) for folder in made(places, dead_owner())]
    for other in others:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
    for other in others:
        assert other.stdin is not None
        other.stdin.write(b"\n")
        other.stdin.flush()
    groups.reap()
    for other in others:
        with other:
            assert other.wait(30) == 0
    assert not any(folder.exists() for folder in left)
