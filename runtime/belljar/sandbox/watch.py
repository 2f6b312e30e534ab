"""Counts what a box uses where no control group does: a watch on the host that looks at the box's processes.

An ordinary user has no control groups, and each of the kernel's own limits is for one process: 96 of them could use 96
times `memory`. So a thread beside the event loop looks at all processes of the box, adds up what they use, and kills
the box when that is more than it may have.

What belongs to the box: its first process and everything below it. The kernel gives an orphan to the first process of
its pid namespace, so nothing can leave this tree. Only while we read can a process move, from a dying parent to the
first process; so the first one's children are read again until none of them is new.

Memory: each process's share of its anonymous pages (a page that ten processes share counts for a tenth in each),
swapped or not; of shared anonymous mappings; the scratch folder; and what its sockets can hold. The kernel's own data
(page tables, lists of mappings, pipes) is not counted.

Shared anonymous mappings can hold pages that are in no page table any more: the kernel keeps them until the last piece
of the mapping goes. They show up in the machine's total of such pages. When that has grown by more than a quarter of
`memory` since the box was born, no matter who caused it, the box's mappings are read as well, as often as possible, and
each counts as large as it was ever seen, at least `_HIDDEN_BYTES`.

CPU time: that of living processes, with what each has taken over from the children it waited for. The time of a child
that nobody waits for (SIGCHLD ignored) is lost. So a process that runs and was not there at the last look stands for
those that came and went before it: it is charged the whole time since then.

Tasks are counted to say which limit was reached; the kernel itself refuses more, and counts for each user namespace.

Shares are expensive to read: the kernel goes through all page tables, and waits for a process that is being cloned. So
between two such counts the growth is estimated, upwards, from numbers that cost nothing: each fault of a page that was
there before may have copied it. When that estimate is above `memory`, the box is counted again, with its processes
stopped, so that it does not grow further and no lock is held.

How far beyond `memory` a box can get: by what it can touch between two looks. The pause before the next look is how
long the remaining room would last if each core that the box can keep busy filled `_TOUCH_BYTES_PER_S`, but at least
`_PAUSE_MIN_S`, and at least `_DUTY` times what the last look took.

All of this is read directly from /proc. psutil finds the children of a process by reading every process of the machine,
and shares by reading a process's mappings one by one: that takes milliseconds, this about 50 µs for a process.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from belljar.sandbox.base import BoxSpec, Evidence

__all__ = [
    "Born",
    "Process",
    "Watch",
    "address_peak_bytes",
    "born",
    "growth_bytes",
    "pid_of",
    "processes_below",
    "ticks_between",
]

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_CORES: Final = os.cpu_count() or 1
# One core of today's machines does not fill new pages faster.
_TOUCH_BYTES_PER_S: Final = 2 * 2**30
_PAUSE_MIN_S: Final = 0.005
_PAUSE_MAX_S: Final = 0.1
# Looking takes at most a third of a core.
_DUTY: Final = 2.0
# What one end of a pair of sockets can hold: net.core.wmem_default, which a program in a box cannot raise, and half of
# it again, because the last piece may go beyond.
_SOCKET_BYTES: Final = 212_992 * 3 // 2
# Orphans may move while we read. If more generations die within one look, the next look finds the rest.
_PASSES_MAX: Final = 5
_FILE_BYTES_MAX: Final = 2**20
# What reading a process's files raises when it has ended. Anything else, such as no descriptor left, is not an end.
_ENDED: Final = (FileNotFoundError, ProcessLookupError)
_CHILDREN_LISTED: Final = os.path.exists("/proc/thread-self/children")
# Begin, end, offset and number of a shared anonymous mapping.
_SHARED: Final = re.compile(rb"^(\w+)-(\w+) ...s (\w+) \S+ (\d+) +/dev/zero \(deleted\)$", re.MULTILINE)
# How much of one mapping can be filled, and mostly unmapped again, between two looks at the shortest pause.
_HIDDEN_BYTES: Final = int(_TOUCH_BYTES_PER_S * _PAUSE_MIN_S)
_HIDDEN_SHARE: Final = 0.25
# Stopping a crowd is slow, so it is counted from the first share of `memory` on, each time it has grown by the second.
_CROWD_SHARE: Final = 0.75
_CROWD_GROWTH_SHARE: Final = 0.125
# A count that takes no longer than the first is made with every look; any other at least every `_COUNT_S`, to notice
# what was freed.
_CHEAP_S: Final = 0.002
_COUNT_S: Final = 0.5


class Born(NamedTuple):
    """The sizes that a box has from birth, because it is a clone."""

    address_bytes: int = 0
    private_bytes: int = 0
    shared_bytes: int = 0


class Process(NamedTuple):
    """One process at one moment. `at` is its folder in /proc.

    `own` is its own CPU time, `inherited` that of the children it waited for, both in ticks, as is `started`. `faults`:
    how often a page was made, copied or found for it.
    """

    at: str
    parent: int
    running: bool
    faults: int
    own: int
    inherited: int
    threads: int
    started: int
    address_bytes: int
    resident_bytes: int
    shared_bytes: int

    @property
    def private_bytes(self) -> int:
        return self.resident_bytes - self.shared_bytes


class Watch:
    """Looks at the box whose first process is `pid`, from `start` to `stop`; calls `kill` when it uses too much memory.

    Args:
        scratch: a descriptor of the box's scratch folder.
        born: the sizes of the process that the box was cloned from.
        covers: what to look at: `memory`, `cpu`, `pids`; control groups count the rest.
    """

    def __init__(
        self, pid: int, spec: BoxSpec, scratch: int, *, born: Born, covers: Collection[str], kill: Callable[[], None]
    ) -> None:
        self._pid = pid
        self._spec = spec
        self._scratch = scratch
        self._born = born
        self._covers = covers
        self._kill = kill
        self._looking = threading.Lock()
        self._over = threading.Event()
        self._wake = threading.Event()
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="belljar watch", daemon=True)
        self._known: dict[int, Process] = {}
        self._looked = time.monotonic()
        self._took_s = 0.0
        # As of the last count of shares.
        self._counted: dict[int, Process] = {}
        self._counted_at = 0.0
        self._count_took_s = 0.0
        self._cpu_ticks = 0.0
        self._shared_before = _shared_on_machine()
        self._mappings: dict[bytes, int] = {}
        self._pages_bytes = 0
        self._memory_bytes = 0
        self._memory_peak_bytes = 0
        self._tasks = 1
        self._kills = 0
        # It could no longer look, and so has killed the box: nothing would have limited it.
        self.failed = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop looking. Waits for a look that is under way."""
        self._over.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def ask(self, answered: Callable[[], None]) -> None:
        """Look now; `answered` is called, in another thread, when that is done, but not after the end."""
        self._asked.put(answered)
        self._wake.set()

    def evidence(self) -> Evidence:
        """What was counted at the last look."""
        memory = "memory" in self._covers
        return Evidence(
            cpu_s=self._cpu_ticks / TICKS_PER_S if "cpu" in self._covers else None,
            memory_peak_bytes=self._memory_peak_bytes if memory else None,
            memory_kills=self._kills if memory else None,
            tasks=self._tasks if "pids" in self._covers else None,
        )

    def look(self) -> None:
        """Count once, and kill the box if it uses too much. Blocks for 0.1 ms, with a large box some milliseconds."""
        with self._looking:
            if self._over.is_set():
                return
            began = time.monotonic()
            processes = processes_below(self._pid)
            if not processes:
                return  # it has ended: the last count stands
            self._tasks = sum(process.threads for process in processes.values())
            if "cpu" in self._covers:
                self._cpu_ticks += ticks_between(self._known, processes, (began - self._looked) * TICKS_PER_S)
            if "memory" in self._covers:
                self._measure(processes, began)
            self._known, self._looked = processes, began
            self._took_s = time.monotonic() - began

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self._wake.wait(self._pause_s())
                self._wake.clear()
                answers = [self._asked.get() for _ in range(self._asked.qsize())]
                self.look()
                for answered in answers:
                    answered()
        except OSError:
            pass  # no descriptor left, say: the end of the box reports it
        finally:
            if not self._over.is_set():
                self.failed = True
                self._kill()

    def _pause_s(self) -> float:
        pause = _PAUSE_MAX_S
        if "memory" in self._covers:
            # A task can start another one meanwhile.
            cores = min(_CORES, 2 * self._tasks)
            room = self._spec.memory_bytes - self._memory_bytes
            pause = max(_PAUSE_MIN_S, min(pause, room / (cores * _TOUCH_BYTES_PER_S)))
            if self._mappings:
                pause = _PAUSE_MIN_S
        return max(pause, _DUTY * self._took_s)

    def _measure(self, processes: dict[int, Process], now: float) -> None:
        scratch_bytes = _used_bytes(self._scratch)
        others_bytes = scratch_bytes + _sockets(self._pid) * _SOCKET_BYTES
        grown_bytes = growth_bytes(self._counted, processes, self._born)
        self._memory_bytes = others_bytes + self._pages_bytes + grown_bytes
        above = self._memory_bytes > self._spec.memory_bytes
        if grown_bytes > self._spec.memory_bytes * _CROWD_GROWTH_SHARE and _are_a_crowd(processes):
            above = self._memory_bytes > self._spec.memory_bytes * _CROWD_SHARE
        if not above and not self._is_cheap(processes, now):
            return
        with contextlib.ExitStack() as stack:
            if above and len(processes) > 1:
                processes = stack.enter_context(_stopped(self._pid))
            if processes != self._counted:  # processes that have not run have touched nothing
                self._pages_bytes = self._pages(processes.values(), scratch_bytes)
            self._memory_bytes = others_bytes + self._pages_bytes
            self._memory_peak_bytes = max(self._memory_peak_bytes, self._memory_bytes)
            if self._memory_bytes > self._spec.memory_bytes:
                self._kills += 1
                self._over.set()
                self._kill()
        self._counted, self._counted_at = processes, now
        self._count_took_s = time.monotonic() - now

    def _is_cheap(self, processes: Mapping[int, Process], now: float) -> bool:
        """Whether to count without need, so that the estimate does not drift and the numbers stay current."""
        if _are_a_crowd(processes):
            return False
        return self._count_took_s < _CHEAP_S or now - self._counted_at > _COUNT_S

    def _pages(self, processes: Collection[Process], scratch_bytes: int) -> int:
        shares = [self._share(process) for process in processes]
        private, mapped = sum(share[0] for share in shares), sum(share[1] for share in shares)
        hidden_at_most = _shared_on_machine() - self._shared_before - scratch_bytes
        if hidden_at_most > self._spec.memory_bytes * _HIDDEN_SHARE:
            seen = _shared_mappings(processes)
            if seen is None:
                return self._spec.memory_bytes + 1  # so many mappings are only good for hiding something
            self._mappings = {number: max(size, self._mappings.get(number, 0)) for number, size in seen.items()}
            mapped = max(mapped, sum(max(size, _HIDDEN_BYTES) for size in self._mappings.values()))
        return private + mapped

    def _share(self, process: Process) -> tuple[int, int]:
        """Its share of anonymous pages, and of shared pages that belong to no file."""
        with contextlib.suppress(PermissionError):
            return _proportional(process.at)
        # This host does not show shares: then a page counts in full for each process that has it.
        return process.private_bytes, max(0, process.shared_bytes - self._born.shared_bytes)


def born(pid: int) -> Born:
    """The sizes of a process that is about to be cloned.

    Raises:
        OSError: there is no such process.
    """
    address, resident, shared = _sizes(f"/proc/{pid}")
    return Born(address, resident - shared, shared)


def address_peak_bytes(pid: int, born: Born) -> int | None:
    """The most address space that a process has had since its birth, beyond its initial size."""
    with contextlib.suppress(OSError):
        for line in _read(f"/proc/{pid}/status").splitlines():
            if line.startswith(b"VmPeak:"):
                return max(0, int(line.split()[1]) * 1024 - born.address_bytes)
    return None


def pid_of(pidfd: int) -> int:
    """The pid, in our namespace, of the process behind a descriptor; -1 when it has ended.

    Raises:
        OSError: it is not a descriptor.
    """
    lines = _read(f"/proc/self/fdinfo/{pidfd}").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(b"Pid:"))


def ticks_between(before: Mapping[int, Process], after: Mapping[int, Process], passed: float) -> float:
    """The CPU time used between two looks, `passed` ticks apart."""
    all_of_it = sum(each.own + each.inherited for each in after.values())
    all_of_it -= sum(each.own + each.inherited for each in before.values())
    stayed = [(before[pid], now) for pid, now in after.items() if _same(before.get(pid), now)]
    new = sum(now.running for pid, now in after.items() if not _same(before.get(pid), now)) if before else 0
    least = sum(now.own - then.own for then, now in stayed) + min(new, _CORES) * passed
    return max(0.0, all_of_it, least)


def growth_bytes(before: Mapping[int, Process], after: Mapping[int, Process], born: Born) -> int:
    """By how much memory can have grown between two looks; too much if pages were freed as well."""
    # A new process may have inherited its pages.
    inherited = max((each.private_bytes for each in before.values()), default=born.private_bytes)
    grown = 0
    for pid, now in after.items():
        then = before.get(pid)
        if then is not None and _same(then, now):
            made, private = now.faults - then.faults, then.private_bytes
        else:
            made, private = now.faults, inherited
        grown += max(made * _PAGE_BYTES, now.private_bytes - private, 0)
    return grown


def _same(before: Process | None, now: Process) -> bool:
    return before is not None and before.started == now.started


# ------------------------------------------------------------------------------------------------------------ processes


def processes_below(first: int, *, listed: bool = _CHILDREN_LISTED) -> dict[int, Process]:
    """Process `first` and all below it that still live. A pid that now belongs to a stranger is left out.

    `listed`: this kernel lists the children of a process; otherwise all processes are searched.
    """
    found: dict[int, Process] = {}
    for _ in range(_PASSES_MAX):
        family = None if listed else _family()
        before = len(found)
        waiting = [first] if first not in found else _children(first, found[first].threads, family)
        while waiting:
            pid = waiting.pop()
            if pid in found or (process := _process(pid)) is None:
                continue
            if pid == first or process.parent in found:
                found[pid] = process
                waiting += _children(pid, process.threads, family)
        if len(found) == before:
            break
    return found


def _process(pid: int) -> Process | None:
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        state, threads = fields[0], int(fields[17])
        at = f"/proc/{pid}"
        address, resident, shared = _sizes(at)
        if not resident and threads > 1 and state in b"ZX":
            # Its first thread has ended, and its memory can only be seen through the others.
            at = next((path for path in _threads(pid) if any(_sizes(path))), at)
            address, resident, shared = _sizes(at)
    except _ENDED:
        return None
    return Process(
        at=at,
        parent=int(fields[1]),
        running=state == b"R",
        faults=int(fields[7]),
        own=int(fields[11]) + int(fields[12]),
        inherited=int(fields[13]) + int(fields[14]),
        threads=threads,
        started=int(fields[19]),
        address_bytes=address,
        resident_bytes=resident,
        shared_bytes=shared,
    )


def _children(pid: int, threads: int, family: Mapping[int, list[int]] | None) -> list[int]:
    if family is not None:
        return list(family.get(pid, ()))
    paths = [f"/proc/{pid}/task/{pid}"] if threads == 1 else _threads(pid)
    found: list[int] = []
    for path in paths:
        with contextlib.suppress(*_ENDED):
            found += map(int, _read(f"{path}/children").split())
    return found


def _threads(pid: int) -> list[str]:
    with contextlib.suppress(*_ENDED):
        return [f"/proc/{pid}/task/{name}" for name in os.listdir(f"/proc/{pid}/task")]
    return []


@contextlib.contextmanager
def _stopped(first: int) -> Iterator[dict[int, Process]]:
    """All processes of a box, stopped while the block lasts.

    A box starts as one process group, which one call stops before it can grow further. Processes that have left the
    group are stopped after that.
    """
    handles: dict[int, int] = {}
    _signal_group(first, signal.SIGSTOP)
    try:
        for _ in range(_PASSES_MAX):
            found = processes_below(first)
            new = found.keys() - handles.keys()
            for pid in new:
                with contextlib.suppress(OSError):
                    handles[pid] = os.pidfd_open(pid)
                    _signal(handles[pid], signal.SIGSTOP)
            if not new:
                break
        yield found
    finally:
        _signal_group(first, signal.SIGCONT)
        for handle in handles.values():
            _signal(handle, signal.SIGCONT)
            os.close(handle)


def _signal_group(first: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):  # it has ended
        os.killpg(first, number)


def _are_a_crowd(processes: Mapping[int, Process]) -> bool:
    """Whether more of them are running than there are cores: those that wait hold locks, and hold up a look."""
    return len(processes) > 1 and sum(each.running for each in processes.values()) > _CORES


def _signal(handle: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):  # it has ended
        signal.pidfd_send_signal(handle, number)


def _family() -> dict[int, list[int]]:
    """Children by parent, from all processes of the machine, for kernels that do not list children."""
    family: dict[int, list[int]] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(*_ENDED):
            parent = int(_read(f"/proc/{name}/stat").rpartition(b")")[2].split()[1])
            family.setdefault(parent, []).append(int(name))
    return family


# --------------------------------------------------------------------------------------------------------------- memory


def _sizes(at: str) -> tuple[int, int, int]:
    """Address space, resident memory, and the part of it that belongs to files or is shared, in bytes."""
    address, resident, shared, *_ = map(int, _read(f"{at}/statm").split())
    return address * _PAGE_BYTES, resident * _PAGE_BYTES, shared * _PAGE_BYTES


def _proportional(at: str) -> tuple[int, int]:
    """A process's share of anonymous pages, swapped or not, and of pages shared by mappings that belong to no file.

    Raises:
        PermissionError: this host does not show them.
    """
    try:
        lines = _read(f"{at}/smaps_rollup").splitlines()[1:]
    except _ENDED:
        return 0, 0
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(b":") for line in lines)}
    anonymous = kib.get(b"Pss_Anon", kib.get(b"Pss", 0)) + kib.get(b"SwapPss", 0)
    return anonymous * 1024, kib.get(b"Pss_Shmem", 0) * 1024


def _shared_mappings(processes: Iterable[Process]) -> dict[bytes, int] | None:
    """The shared anonymous mappings of these processes, each once: number to size. None: too many to read."""
    sizes: dict[bytes, int] = {}
    for process in processes:
        with contextlib.suppress(OSError):
            maps = _read(f"{process.at}/maps")
            if len(maps) >= _FILE_BYTES_MAX:
                return None
            for start, stop, offset, number in _SHARED.findall(maps):
                size = int(offset, 16) + int(stop, 16) - int(start, 16)
                sizes[number] = max(sizes.get(number, 0), size)
    return sizes


def _shared_on_machine() -> int:
    """The size of all temporary file systems and shared anonymous mappings of this machine."""
    with contextlib.suppress(OSError):
        for line in _read("/proc/meminfo").splitlines():
            if line.startswith(b"Shmem:"):
                return int(line.split()[1]) * 1024
    return 0


def _used_bytes(folder: int) -> int:
    with contextlib.suppress(OSError):
        about = os.statvfs(folder)
        return (about.f_blocks - about.f_bfree) * about.f_frsize
    return 0


def _sockets(pid: int) -> int:
    """How many sockets there are in a process's network namespace."""
    with contextlib.suppress(OSError, ValueError):
        first, _, _ = _read(f"/proc/{pid}/net/sockstat").partition(b"\n")
        return int(first.removeprefix(b"sockets: used"))
    return 0


def _read(path: str) -> bytes:
    """A kernel file, up to a mebibyte."""
    return b"".join(_pieces(path))


def _pieces(path: str) -> Iterator[bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        left = _FILE_BYTES_MAX
        while left > 0 and (piece := os.read(descriptor, min(left, 65536))):
            left -= len(piece)
            yield piece
    finally:
        os.close(descriptor)
