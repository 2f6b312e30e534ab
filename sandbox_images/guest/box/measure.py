"""Which layers hold? Tried, and read from the kernel, by a test box before any guest code is in reach.

A list of steps proves nothing: a step may be missing, or do nothing on this kernel. And behind another layer, a missing
one goes unnoticed. So a process that locks itself down calls this at four moments; each layer is judged where nothing
else is in front of it, and is reported only if it was seen to hold:

    when it is made   which namespaces it is in
    before_landlock   identity, namespaces, mounts, limits and capabilities; what the kernel says of them, and attempts
    before_filter     what only Landlock forbids: files, the network, signals and abstract sockets to outside
    behind_filter     system calls that only the filter refuses

Each attempt has an outcome: it was refused as the layer refuses it (True), it was not (False), or something else came
first (None: under a container runtime's own filter some calls cannot be made). A layer holds when at least one outcome
is True and none is False.

We can only compare with the kernel of a host that we see: `host` has its namespaces' numbers, and the first of each
kind has the same number everywhere.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import socket
import stat
from collections.abc import Callable, Iterable, Mapping

from guest.box.enclosure import NOBODY, SECUREBITS, landlock_version
from guest.box.kernel import last_errno, libc, system_call

__all__ = ["Measure"]

PR_GET_DUMPABLE = 3
PR_GET_SECUREBITS = 27
PR_GET_NO_NEW_PRIVS = 39
# Namespaces by the names of their layers, and as the kernel numbers the first of each.
KINDS = {
    "userns": ("user", 0xEFFFFFFD),
    "pidns": ("pid", 0xEFFFFFFC),
    "mountns": ("mnt", 0xEFFFFFF8),
    "netns": ("net", 0xEFFFFFF9),
    "ipcns": ("ipc", 0xEFFFFFFF),
    "utsns": ("uts", 0xEFFFFFFE),
    "cgroupns": ("cgroup", 0xEFFFFFFB),
}
# The same text in every version of gVisor, and in no build of Linux.
GVISOR = "Sun Jan 10 15:06:54 PST 2016"
DEVICES = ["null", "urandom", "zero"]
HOSTNAME = "belljar"
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
# It does not exist: if the call is made at all, that is the answer.
NO_PROGRAM = "/usr/bin/no-such-program"


class Measure:
    """One box's look at itself.

    Args:
        proc: a descriptor of a /proc that has this process.
        fresh: the layers whose namespaces are made after this.
    """

    def __init__(self, proc: int, fresh: Iterable[str]) -> None:
        self._proc = proc
        self._outcomes: dict[str, list[bool | None]] = {}
        self._outsider: _Outsider | None = None
        # For a clone of a process with its own namespaces, it is not enough that they differ from the host's.
        self._before = {layer: self._number(layer) for layer in fresh}
        with open(os.open("version", os.O_RDONLY, dir_fd=proc), encoding="ascii", errors="replace") as file:
            self._second_kernel = GVISOR in file.read()

    def before_landlock(self, ordered: Mapping) -> None:  # type: ignore[type-arg]
        """Compare with what was ordered.

        `host`: numbers of the host's namespaces by kind; `limits`, by the names of setrlimit(2); `scratch`: its bytes
        and files; `locked`: whether securebits are locked; `alone`: whether the root has only the image, the scratch
        and three devices; `mounts`: all mount points but the scratch's, where they are known.
        """
        for layer in KINDS:
            self._saw(layer, self._is_own(layer, ordered["host"]))
        self._saw("userns", self._only_nobody(), _refused(lambda: os.setresuid(0, 0, 0), errno.EINVAL))
        self._saw("pidns", os.getpid() == 1)
        self._saw("netns", self._no_route())
        self._saw("utsns", os.uname().nodename == HOSTNAME)
        self._saw("rootfs", self._root_is_tied_down(ordered["mounts"]), self._scratch_is_bounded(*ordered["scratch"]))
        self._saw("rootfs", _nothing_else() if ordered["alone"] else None)
        self._saw("rlimits", *_limits_are_set(ordered["limits"]))
        self._saw("caps", self._no_capability(locked=ordered["locked"]), libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0)
        self._saw("no_new_privs", libc.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
        if landlock_version() >= 1:
            self._outsider = _Outsider()

    def before_filter(self) -> None:
        version, outsider = landlock_version(), self._outsider
        if outsider is None:
            return
        self._saw("landlock", *_files_are_closed())
        if version >= 4:
            self._saw("landlock", _refused(_bind_a_port, errno.EACCES))
        if version >= 6:
            self._saw("landlock", outsider.cannot_be_called(), outsider.cannot_be_signalled())
        outsider.end()

    def behind_filter(self) -> list[str]:
        """The layers that hold."""
        self._saw("seccomp", _refused(lambda: os.execv(NO_PROGRAM, [NO_PROGRAM]), errno.EPERM))  # noqa: S606
        self._saw("seccomp", _refused(_open_a_socket, errno.EPERM), _refused(_unshare_nothing, errno.EPERM))
        return [layer for layer, seen in self._outcomes.items() if True in seen and False not in seen]

    def _saw(self, layer: str, *outcomes: bool | None) -> None:
        self._outcomes.setdefault(layer, []).extend(outcomes)

    def _read(self, name: str) -> str:
        descriptor = os.open(f"self/{name}", os.O_RDONLY, dir_fd=self._proc)
        with open(descriptor, encoding="ascii", errors="replace") as file:
            return file.read()

    def _status(self) -> dict[str, str]:
        return dict(line.split(":\t", 1) for line in self._read("status").splitlines() if ":\t" in line)

    def _is_own(self, layer: str, host: Mapping[str, int]) -> bool:
        """Whether this process has its own namespace. Each box has its own gVisor kernel."""
        if self._second_kernel:
            return True
        kind, first = KINDS[layer]
        return self._number(layer) not in (first, host.get(kind), self._before.get(layer))

    def _number(self, layer: str) -> int:
        return os.stat(f"self/ns/{KINDS[layer][0]}", dir_fd=self._proc).st_ino

    def _only_nobody(self) -> bool:
        maps = [self._read(name).split() for name in ("uid_map", "gid_map")]
        one = all(len(ids) == 3 and (ids[0], ids[2]) == (str(NOBODY), "1") for ids in maps)
        return one and {*os.getresuid(), *os.getresgid()} == {NOBODY}

    def _no_route(self) -> bool:
        """Whether there is at most a loopback, and no route anywhere else."""
        devices = set()
        for table, column in (("net/route", 0), ("net/ipv6_route", -1)):
            with contextlib.suppress(FileNotFoundError):  # a kernel without it
                devices |= {way.split()[column] for way in self._read(table).splitlines() if way.strip()}
        return devices <= {"Iface", "lo"}

    def _mounts(self) -> list[tuple[str, set[str]]]:
        """Where something is mounted, and its options."""
        lines = [line.split() for line in self._read("mountinfo").splitlines()]
        return [(words[4], set(words[5].split(","))) for words in lines]

    def _root_is_tied_down(self, wanted: Iterable[str] | None) -> bool:
        found = self._mounts()
        roots = [options for point, options in found if point == "/"]
        # If the host's root was not detached, it lies on top of the image's.
        tied = len(roots) == 1 and "ro" in roots[0] and self._is_read_only()
        if wanted is not None:
            closed = sorted(point for point, options in found if {"ro", "nosuid"} <= options)
            tied = tied and closed == sorted(wanted) and len(found) == len(closed) + 1
        return tied

    def _is_read_only(self) -> bool:
        """Whether no file can be made beside the image's. gVisor's kernel checks permissions first."""
        number = errno.EACCES if self._second_kernel else errno.EROFS
        return _refused(lambda: os.open("/probe", os.O_CREAT | os.O_WRONLY), number) is True

    def _scratch_is_bounded(self, size: int, files: int) -> bool:
        descriptor = os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY)  # noqa: S108
        about, owner = os.fstatvfs(descriptor), os.fstat(descriptor)
        os.close(descriptor)
        private = (owner.st_uid, stat.S_IMODE(owner.st_mode)) == (os.getuid(), 0o700)
        # The kernel rounds up to whole pages. To it a size of 0 is no bound; then the number of files is the bound.
        bounded = 0 < about.f_blocks * about.f_frsize < size + mmap.PAGESIZE or size == 0
        options = dict(self._mounts())["/tmp"]  # noqa: S108
        if self._second_kernel:  # counts no files, and checks `noexec` only when a program is started
            return private and bounded and "noexec" in options
        tied = {"nosuid", "nodev", "noexec"} <= options and 0 < about.f_files <= files
        return private and bounded and tied and _cannot_be_run()

    def _no_capability(self, *, locked: bool) -> bool:
        said = self._status()
        none = not any(int(said[name], 16) for name in CAPABILITIES if name in said)
        return none and (not locked or libc.prctl(PR_GET_SECUREBITS, 0, 0, 0, 0) == SECUREBITS)


class _Outsider:
    """A process outside the Landlock domain, because it was there before, and an address at which it listens."""

    def __init__(self) -> None:
        self._address = f"\0belljar-{os.getpid()}"
        self._listener: socket.socket | None = None
        with contextlib.suppress(OSError):  # a container runtime's filter does not allow it
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self._address)
            self._listener.listen()
        reader, self._lifeline = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._lifeline)
            os.read(reader, 1)
            os._exit(0)
        os.close(reader)

    def cannot_be_called(self) -> bool | None:
        if self._listener is None:
            return None
        with socket.socket(socket.AF_UNIX) as caller:
            return _refused(lambda: caller.connect(self._address), errno.EPERM)

    def cannot_be_signalled(self) -> bool | None:
        return _refused(lambda: os.kill(self._pid, 0), errno.EPERM)

    def end(self) -> None:
        if self._listener is not None:
            self._listener.close()
        os.close(self._lifeline)
        os.waitpid(self._pid, 0)


def _refused(attempt: Callable[[], object], number: int) -> bool | None:
    """Whether it fails with this error. None if it fails with one that another layer or the kernel gives.

    A filter that does not know the call answers ENOSYS; one that refuses it, EPERM.
    """
    try:
        attempt()
    except OSError as error:
        if error.errno == number:
            return True
        return None if error.errno in (errno.ENOSYS, errno.EPERM) else False
    return False


def _nothing_else() -> bool:
    nowhere = not os.path.exists("/proc/self") and not os.path.exists("/sys/kernel")
    return nowhere and sorted(os.listdir("/dev")) == DEVICES


def _limits_are_set(limits: Mapping[str, int]) -> list[bool | None]:
    numbers = {getattr(resource, f"RLIMIT_{name}"): value for name, value in limits.items()}
    every = all(resource.getrlimit(number) == (value, value) for number, value in numbers.items())

    def raise_one() -> None:
        more = limits["NOFILE"] + 1
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, more))
        except ValueError:  # how Python reports EPERM here
            raise PermissionError(errno.EPERM, "refused") from None

    return [every, _refused(raise_one, errno.EPERM)]


def _files_are_closed() -> list[bool | None]:
    """Try what the mounts would allow: make a pipe in the scratch folder, or list what only a container has."""
    made = _refused(lambda: os.mkfifo("/tmp/probe"), errno.EACCES)  # noqa: S108
    with contextlib.suppress(OSError):
        os.unlink("/tmp/probe")  # noqa: S108
    if made is None:
        return [_refused(lambda: os.listdir("/"), errno.EACCES)]
    return [made]


def _bind_a_port() -> None:
    with socket.socket(socket.AF_INET) as bound:
        bound.bind(("0.0.0.0", 4444))  # noqa: S104 - in its own network


def _open_a_socket() -> None:
    socket.socket(socket.AF_INET).close()


def _unshare_nothing() -> None:
    if system_call("unshare", 0) < 0:
        raise OSError(last_errno(), "refused")


def _cannot_be_run() -> bool:
    """Whether a page of a file in the scratch folder cannot be loaded as code."""
    try:
        with open("/tmp/probe", "w+b") as file:  # noqa: S108
            file.write(b"page")
            file.flush()
            # Private, because a filter in front may refuse shared executable mappings for its own reasons.
            code = {"flags": mmap.MAP_PRIVATE, "prot": mmap.PROT_READ | mmap.PROT_EXEC}
            loaded = _refused(lambda: mmap.mmap(file.fileno(), 4, **code), errno.EPERM)
        os.unlink("/tmp/probe")  # noqa: S108
    except OSError:  # a policy that leaves no room for a file with a byte in it
        return True
    return loaded is True
