"""What a box may use of the machine, and what the kernel counted that it used: control groups, version 1 or 2.

Below the group that this process is in (version 1), or beside it or at the top (version 2, where a group with processes
cannot have limited children), each `Cgroups` has one group `belljar-PID-STARTTIME-PIDNAMESPACE-NUMBER`, and in it one
group for each box. A newborn box writes itself into its group through a descriptor that we opened, so it needs no
permission and we need no pid.

The group is also the evidence: how much CPU time, how many kills for memory, how many refused tasks. And it proves an
end: a group can only be removed when nothing lives in it. Groups whose process has died are found by name, killed and
removed at the next start; those of another pid namespace are left alone, because we cannot see who lives there. Two
processes may clear the same group at once, so anything here may vanish at any moment.

A host without a writable group has fewer layers; the policy says whether that is enough.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from belljar.errors import BoxFault
from belljar.processes import identity, is_alive
from belljar.sandbox.base import BoxSpec, Evidence

__all__ = ["BoxGroup", "Cgroups", "Place", "find_places", "folder_of", "group_of"]

_PREFIX: Final = "belljar-"
_COUNTED: Final = ("memory", "cpu", "pids")
# One box, one CPU: a root model's program is one thread of Python, and the other CPUs are for its neighbours.
_PERIOD_US: Final = 100_000
_QUOTA_US: Final = 100_000
# For each controller, where its limit is read in versions 1 and 2.
_LIMITS: Final = {
    "memory": ("memory.limit_in_bytes", "memory.max"),
    "cpu": ("cpu.cfs_quota_us", "cpu.max"),
    "pids": ("pids.max", "pids.max"),
}
# How version 1 says "no limit": the largest number of whole pages.
_UNLIMITED_MIN: Final = 2**60
_CONTROL_BYTES_MAX: Final = 4096
_SWAPS: Final = Path("/proc/swaps")
# A killed process leaves its group a moment later.
_REMOVE_S: Final = 5.0
# Tells the groups of several `Cgroups` of one process apart.
_INSTANCES: Final = itertools.count(1)


class Place(msgspec.Struct, frozen=True):
    """A folder in which groups can be made, and its controllers; `version` is 1 or 2."""

    folder: Path
    controllers: frozenset[str]
    version: int


class Cgroups:
    """The groups of this process's boxes.

    `layers` names what they really limit: `cgroup.memory`, `cgroup.cpu`, `cgroup.pids`; `uncounted` has the rest of the
    three, which something else must watch. Memory is not limited where the box can use swap.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._numbers = itertools.count(1)
        self._ready: tuple[BoxSpec, BoxGroup] | None = None
        self._own = f"{_PREFIX}{identity(os.getpid())}-{_namespace()}-{next(_INSTANCES)}"
        self._places = [place for place in places if self._usable(place)]
        counted = [name for name in _COUNTED if any(name in place.controllers for place in self._places)]
        if not all(self._without_swap(place) for place in self._places if "memory" in place.controllers):
            counted.remove("memory")
        self.layers = tuple(f"cgroup.{name}" for name in counted)
        self.uncounted = tuple(name for name in _COUNTED if name not in counted)

    def create(self, spec: BoxSpec) -> BoxGroup:
        """Groups for one box, limits set.

        Raises:
            BoxFault: the kernel refused, although it worked before.
        """
        name = f"box-{next(self._numbers)}"
        folders: list[tuple[Place, Path]] = []
        try:
            for place in self._places:
                folder = place.folder / self._own / name
                folder.mkdir()
                folders.append((place, folder))
                _limit(place, folder, spec)
        except OSError as error:
            for _, folder in folders:
                _clear(folder)
            raise BoxFault(f"no control group for a box: {error}: try again") from error
        return BoxGroup(folders)

    def take(self, spec: BoxSpec) -> BoxGroup:
        """Groups for one box, made ahead if `prepare` was called for the same limits."""
        ready, self._ready = self._ready, None
        if ready is None:
            return self.create(spec)
        if ready[0] != spec:
            ready[1].remove()
            return self.create(spec)
        return ready[1]

    def prepare(self, spec: BoxSpec) -> None:
        """Make the next box's groups now, while nobody waits for them: 0.37 ms, where the goal for a fresh box is 3.

        What fails here fails again in `take`.
        """
        if self._ready is None:
            with contextlib.suppress(BoxFault):
                self._ready = (spec, self.create(spec))

    def reap(self) -> int:
        """Kill and remove what our dead processes left behind. Returns how many groups."""
        found = 0
        for place in self._places:
            for folder in place.folder.glob(f"{_PREFIX}*"):
                if _abandoned(folder.name.removeprefix(_PREFIX)):
                    _clear(folder)
                    found += 1
        return found

    def aclose(self) -> None:
        """Remove this process's groups; the boxes must be dead."""
        for place in self._places:
            _clear(place.folder / self._own)

    def _usable(self, place: Place) -> bool:
        folder = place.folder / self._own
        try:
            folder.mkdir(exist_ok=True)
            if place.version == 2:
                wanted = " ".join(f"+{name}" for name in sorted(place.controllers))
                (folder / "cgroup.subtree_control").write_text(wanted)
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            return False
        return True

    def _without_swap(self, place: Place) -> bool:
        """Whether memory that a box must give back cannot go to swap instead, where it would not be counted."""
        own = place.folder / self._own
        name = "memory.swappiness" if place.version == 1 else "memory.swap.max"
        try:
            _put(own, name, "0")
        except OSError:
            # Where swap is counted, it is limited for each box; and a kernel without swap has no list of it either.
            return (own / "memory.memsw.limit_in_bytes").exists() or not _SWAPS.exists()
        return True


class BoxGroup:
    """One box's groups."""

    def __init__(self, folders: Sequence[tuple[Place, Path]]) -> None:
        self._folders = folders
        self._by_controller = {name: folder for place, folder in folders for name in place.controllers}
        self._versions = {name: place.version for place, _ in folders for name in place.controllers}

    @contextlib.contextmanager
    def doors(self) -> Iterator[list[int]]:
        """Descriptors through which a single-threaded process puts itself into the groups.

        With version 1, `tasks` moves a single thread without the lock that moving a whole process needs; that lock
        waits for every CPU to pass through the scheduler, 4 to 20 ms on a quiet machine.
        """
        descriptors: list[int] = []
        try:
            for place, folder in self._folders:
                door = folder / ("tasks" if place.version == 1 else "cgroup.procs")
                descriptors.append(os.open(door, os.O_WRONLY | os.O_CLOEXEC))
            yield descriptors
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def limiting(self, pid: int) -> tuple[str, ...]:
        """The layers that really hold for process `pid`: it is in the group, and the group has a limit."""
        return tuple(
            f"cgroup.{name}"
            for name, files in _LIMITS.items()
            if name in self._by_controller and self._limits(name, files, pid)
        )

    def _limits(self, name: str, files: tuple[str, str], pid: int) -> bool:
        folder, version = self._by_controller[name], self._versions[name]
        try:
            limit = _text(folder, files[version - 1]).split()[0]
        except OSError:  # removed: it limits nobody
            return False
        return pid in _pids(folder) and limit not in ("max", "-1") and int(limit) < _UNLIMITED_MIN

    def evidence(self) -> Evidence:
        """What the kernel has counted so far; None for what this host does not count, or no longer."""
        with contextlib.suppress(OSError):  # removed: its counters are gone with it
            return self._evidence()
        return Evidence()

    def _evidence(self) -> Evidence:
        return Evidence(
            cpu_s=self._cpu_s(),
            memory_peak_bytes=self._number("memory", "memory.max_usage_in_bytes", "memory.peak"),
            memory_kills=self._event("memory", ("memory.oom_control", "oom_kill"), ("memory.events", "oom_kill")),
            tasks_refused=self._event("pids", ("pids.events", "max"), ("pids.events", "max")),
        )

    def remove(self) -> None:
        """Kill whatever is left in it and remove it. Blocks for a few milliseconds."""
        for _, folder in self._folders:
            _clear(folder)

    def _cpu_s(self) -> float | None:
        if "cpuacct" in self._by_controller:
            return int(_text(self._by_controller["cpuacct"], "cpuacct.usage")) / 1e9
        if self._versions.get("cpu") == 2:
            usage = _counter(self._by_controller["cpu"], "cpu.stat", "usage_usec")
            return None if usage is None else usage / 1e6
        return None

    def _number(self, controller: str, name_v1: str, name_v2: str) -> int | None:
        if controller not in self._by_controller:
            return None
        name = name_v1 if self._versions[controller] == 1 else name_v2
        with contextlib.suppress(FileNotFoundError):  # memory.peak came with Linux 5.19
            return int(_text(self._by_controller[controller], name))
        return None

    def _event(self, controller: str, v1: tuple[str, str], v2: tuple[str, str]) -> int | None:
        if controller not in self._by_controller:
            return None
        name, key = v1 if self._versions[controller] == 1 else v2
        return _counter(self._by_controller[controller], name, key)


def find_places(mounts: Path = Path("/proc/self/mountinfo"), own: Path = Path("/proc/self/cgroup")) -> list[Place]:
    """Where this process could make groups, from the kernel's own tables. Tries nothing yet."""
    places: list[Place] = []
    for folder, mounted, controllers in _hierarchies(mounts, own):
        if controllers:
            places.append(Place(folder, controllers, 1))
        elif (place := _version_2(mounted, folder)) is not None:
            places.append(place)
    return places


def _hierarchies(mounts: Path, own: Path) -> Iterator[tuple[Path, Path, frozenset[str]]]:
    """For each mounted hierarchy that limits something: a process's own group in it, its top, and its controllers.

    Version 2 lists controllers in the groups themselves, so none are named here.
    """
    try:
        paths = _own_paths(own.read_text())
        lines = mounts.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ")[:3]
        _, _, _, root, mount = left.split(" ")[:5]
        wanted = frozenset(options.split(",")) & {"memory", "cpu", "cpuacct", "pids"}
        if kind == "cgroup" and wanted:
            yield _below(Path(mount), root, paths.get(min(wanted), "/")), Path(mount), wanted
        elif kind == "cgroup2":
            yield _below(Path(mount), root, paths.get("", "/")), Path(mount), frozenset()


def group_of(pid: int, name: str) -> BoxGroup | None:
    """The groups into which somebody else has put process `pid`, where their path contains `name`.

    None where no such group can be seen: here the number may belong to another process.
    """
    folders: list[tuple[Place, Path]] = []
    for folder, _, controllers in _hierarchies(Path("/proc/self/mountinfo"), Path(f"/proc/{pid}/cgroup")):
        if name not in str(folder) or not folder.is_dir():
            continue
        if controllers:
            folders.append((Place(folder, controllers, 1), folder))
        elif (folder / "memory.max").exists():
            folders.append((Place(folder, frozenset({"memory", "cpu", "pids"}), 2), folder))
    return BoxGroup(folders) if folders else None


def folder_of(cgroup: Path, mounts: Path = Path("/proc/self/mountinfo")) -> Path | None:
    """The version 2 group that a process is in, by its table `/proc/PID/cgroup`."""
    return next((folder for folder, _, controllers in _hierarchies(mounts, cgroup) if not controllers), None)


def _below(mounted: Path, root: str, path: str) -> Path:
    """Our group's folder. In a container the mount may show only the part of the tree below `root`."""
    return mounted / path.removeprefix(root if root != "/" else "").lstrip("/")


def _version_2(mounted: Path, own: Path) -> Place | None:
    """Beside our own group if its parent delegates controllers, else at the top."""
    for folder in dict.fromkeys((own.parent, mounted)):
        if not folder.is_relative_to(mounted):
            continue
        with contextlib.suppress(OSError):
            handed = set((folder / "cgroup.subtree_control").read_text().split())
            controllers = frozenset(handed & {"memory", "cpu", "pids"})
            if controllers and os.access(folder, os.W_OK):
                return Place(folder, controllers, 2)
    return None


def _own_paths(text: str) -> dict[str, str]:
    """Controller to path, from lines like `4:memory:/a/b`; version 2 has an empty controller."""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _limit(place: Place, folder: Path, spec: BoxSpec) -> None:
    if "memory" in place.controllers:
        if place.version == 1:
            _put(folder, "memory.limit_in_bytes", str(spec.memory_bytes))
            try:  # only where swap is counted
                _put(folder, "memory.memsw.limit_in_bytes", str(spec.memory_bytes))
            except OSError:
                with contextlib.suppress(OSError):
                    _put(folder, "memory.swappiness", "0")
        else:
            _put(folder, "memory.max", str(spec.memory_bytes))
            with contextlib.suppress(OSError):
                _put(folder, "memory.swap.max", "0")
    if "pids" in place.controllers:
        _put(folder, "pids.max", str(spec.processes))
    if "cpu" in place.controllers:
        if place.version == 1:
            _put(folder, "cpu.cfs_quota_us", str(_QUOTA_US))
        else:
            _put(folder, "cpu.max", f"{_QUOTA_US} {_PERIOD_US}")


def _put(folder: Path, name: str, text: str) -> None:
    """Write a control file."""
    descriptor = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _text(folder: Path, name: str) -> str:
    """Read a control file, of which the kernel makes no more than a page. Without a buffer that takes half the time."""
    descriptor = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _CONTROL_BYTES_MAX).decode("ascii", "replace")
    finally:
        os.close(descriptor)


def _counter(folder: Path, name: str, key: str) -> int | None:
    for line in _text(folder, name).splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return None


def _clear(folder: Path) -> None:
    """Kill everything in a group and below, and remove it all, within `_REMOVE_S`."""
    with contextlib.suppress(OSError):
        os.rmdir(folder)  # the ordinary case: empty, and nothing below
        return
    until = time.monotonic() + _REMOVE_S
    while folder.exists() and time.monotonic() < until:
        for group in [*_below_one(folder), folder]:
            for pid in _pids(group):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                group.rmdir()
        if folder.exists():
            time.sleep(0.002)


def _below_one(folder: Path) -> list[Path]:
    try:
        return [Path(entry) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _pids(folder: Path) -> list[int]:
    """The processes in a group. The kernel lists those outside our pid namespace as 0, which `kill` takes for us."""
    try:
        return [pid for pid in map(int, (folder / "cgroup.procs").read_text().split()) if pid > 0]
    except OSError:
        return []


def _namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _abandoned(name: str) -> bool:
    """Whether a group with this name (without prefix) was made by a process that we could see and that is dead."""
    parts = name.split("-")
    if len(parts) != 4 or not all(part.isdecimal() for part in parts) or parts[2] != str(_namespace()):
        return False
    return not is_alive("-".join(parts[:2]))
