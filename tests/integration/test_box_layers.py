"""Each layer, by itself: with the others out of the way, it refuses; and where it is missing, it is not told.

Layers stand behind each other, so a program that fails to break out shows that one of them held, and not which. Here
the programs run under a filter that lets every system call through, so that they meet the layer in question; where
another is still in front, the attempt is one that only this layer refuses, or the host's kernel is asked.

That no layer is told which is not there is shown the other way round: the jail is built from images whose code leaves
one step out (`LEFT_OUT`), and then it must not tell that layer, or not start.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest

from belljar.errors import BoxFault, LayerMissing
from belljar.sandbox import Image, Jail, cgroup, ensure_image
from belljar.sandbox.docker.backend import Docker
from belljar.sandbox.jail import backend
from belljar.sandbox.jail.backend import JailBox
from belljar.sandbox.numbers import NUMBERS
from belljar.sandbox.seccomp import Allowlist, Rule
from belljar.sandbox.uids import NOBODY, Uids
from tests.integration import docker_boxes
from tests.integration.test_jail_lifecycle import SPEC, Talk, box_processes, ids_of, opened, proc, zygote_of

EVERYTHING = Allowlist(schema=1, allow=[Rule(names=sorted(NUMBERS), why="for these tests only")], answer=[], boot=[])
ALWAYS = {
    *("userns", "pidns", "mountns", "netns", "ipcns", "utsns", "cgroupns", "rootfs", "rlimits", "caps"),
    *("no_new_privs", "seccomp"),
}
KINDS = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"]
TRY = """\
import ctypes, errno, json, os, resource, socket
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def outcome(act, *arguments):
    try: act(*arguments)
    except OSError as error: return errno.errorcode[error.errno]
    return "done"
def call(number, *arguments):
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    ctypes.set_errno(0)
    return "done" if libc.syscall(ctypes.c_long(number), *words) >= 0 else errno.errorcode[ctypes.get_errno()]
"""


class Living(Protocol):
    """A box that lives, whichever backend's, with its agent ready. `pid` is its first process; gVisor's, its kernel."""

    @property
    def name(self) -> str: ...
    @property
    def pid(self) -> int: ...
    def inside(self, code: str) -> Any: ...


def outcomes(box: Living, *attempts: str) -> list[Any]:
    """What these expressions give inside; `outcome` and `call` make `done` of an attempt, or the error's name."""
    return list(box.inside(f"{TRY}print(json.dumps([{', '.join(attempts)}]))"))


class Boxed:
    """A box of the jail."""

    name = "jail"

    def __init__(self, runner: asyncio.Runner, jail: Jail) -> None:
        self.jail = jail
        self._runner = runner
        self.box: JailBox = runner.run(jail.start(SPEC))
        self.pid = box_processes(jail)[-1].pid
        self._talk = Talk(self.box)
        assert runner.run(self._talk.begin()).status == "ready"

    def inside(self, code: str) -> Any:
        """What the program prints as JSON."""
        told = self._runner.run(self._talk.execute(f"import json\n{code}"))
        assert told.status == "ok", told
        return json.loads(told.output)


@contextlib.contextmanager
def boxes(image: Image, count: int, allowlist: Allowlist | None = None) -> Iterator[list[Boxed]]:
    """Boxes of one jail, all alive."""
    with asyncio.Runner() as runner:
        jail = Jail(image, allowlist=allowlist)
        living: list[Boxed] = []
        try:
            living.extend(Boxed(runner, jail) for _ in range(count))
            yield living
        finally:
            for one in living:
                runner.run(one.box.kill())
            runner.run(jail.aclose())


@pytest.fixture(scope="module")
def image(images: Path) -> Image:
    return ensure_image(images)


@pytest.fixture(scope="module")
def jailed(image: Image) -> Iterator[Boxed]:
    """A box of the jail whose filter lets everything through."""
    with boxes(image, 1, EVERYTHING) as (one,):
        yield one


@pytest.fixture(scope="module", params=["jail", "docker", "gvisor"])
def box(request: pytest.FixtureRequest, image: Image) -> Iterator[Living]:
    """The same of each backend. Under Docker the daemon's filter, too, lets everything through."""
    if request.param == "jail":
        yield request.getfixturevalue("jailed")
    else:
        with docker_boxes.boxed(request.param, request.getfixturevalue("docker_host"), image, EVERYTHING) as one:
            yield one


# What gVisor's kernel does not have; SECURITY.md names what it does instead.
on_linux = pytest.mark.parametrize("box", ["jail", "docker"], indirect=True)


# -------------------------------------------------------------------------------------------------- one layer at a time


def test_userns_nobody_else_exists(box: Living) -> None:
    ids = [0, 1, 1000, NOBODY + 1]
    assert outcomes(box, *(f"outcome(os.setuid, {one})" for one in ids)) == ["EINVAL"] * 4
    assert outcomes(box, *(f"outcome(os.setgid, {one})" for one in ids)) == ["EINVAL"] * 4


def test_pidns_nobody_else_is_there(box: Living) -> None:
    kills = [f"outcome(os.kill, {pid}, 0)" for pid in (os.getpid(), box.pid, os.getppid())]
    assert outcomes(box, "os.getpid()", "os.getppid()", *kills) == [1, 0, *["ESRCH"] * 3]


@on_linux
@pytest.mark.parametrize("kind", KINDS)
def test_every_namespace_is_the_boxs_own(box: Living, kind: str) -> None:
    assert namespace(box.pid, kind) != namespace(os.getpid(), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_no_namespace_of_a_jail_is_shared_by_two_boxes(image: Image, kind: str) -> None:
    with boxes(image, 2) as (one, other):
        above = zygote_of(one.jail).pid
        assert len({namespace(pid, kind) for pid in (one.pid, other.pid, above)}) == 3
        if kind != "pid":
            assert namespace(above, kind) != namespace(os.getpid(), kind)


def namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def test_rootfs_is_the_image_and_nothing_else(jailed: Boxed, image: Image) -> None:
    assert outcomes(jailed, "sorted(os.listdir('/'))") == [sorted(os.listdir(image.root))]
    points = {line.split()[4]: line.split()[5].split(",") for line in proc(jailed.pid, "mountinfo")}
    assert points.keys() == {"/", "/tmp", "/dev/null", "/dev/zero", "/dev/urandom"}
    assert all({"ro", "nosuid"} <= {*flags} for point, flags in points.items() if point != "/tmp")
    assert {"nosuid", "nodev", "noexec"} <= {*points["/tmp"]}


def test_netns_a_datagram_to_the_host_does_not_arrive(box: Living) -> None:
    """Landlock does not look at datagrams. A container has a loopback, of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        host.bind(("127.0.0.1", 0))
        send = f"socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto, b'x', {host.getsockname()}"
        assert outcomes(box, f"outcome({send})") == ["ENETUNREACH" if box.name == "jail" else "done"]
        host.setblocking(False)
        with pytest.raises(BlockingIOError):
            host.recv(1)


def test_ipcns_the_hosts_shared_memory_is_not_there(box: Living) -> None:
    libc, key = ctypes.CDLL(None, use_errno=True), 0x6A610000 + os.getpid()
    segment = libc.shmget(key, 4096, 0o1666)  # IPC_CREAT
    assert segment >= 0
    try:
        assert outcomes(box, f"call({NUMBERS['shmget']}, {key}, 0, 0)") == ["ENOENT"]
    finally:
        libc.shmctl(segment, 0, None)


def test_utsns_has_a_name_of_its_own(box: Living) -> None:
    assert outcomes(box, "os.uname().nodename") == ["belljar"] != [os.uname().nodename]


def test_caps_nothing_is_left_and_nothing_comes_back(box: Living) -> None:
    """A capability would show by what it allows in the box's own namespaces, where no other layer asks."""
    seen = box.inside(f"""{TRY}
header, data = ctypes.create_string_buffer(b"\\x22\\x05\\x08\\x20" + bytes(4)), ctypes.create_string_buffer(24)
assert libc.syscall(125, header, data) == 0
print(json.dumps({{
    "sets": data.raw[:24].strip(b"\\0").hex(),
    "bounding": [number for number in range(41) if libc.prctl(23, number, 0, 0, 0) == 1],
    "securebits": libc.prctl(27, 0, 0, 0, 0), "dumpable": libc.prctl(3, 0, 0, 0, 0),
    "hostname": outcome(socket.sethostname, "mine"), "unlock": call(157, 28, 0, 0, 0, 0),
}}))
""")
    if box.name == "gvisor":  # has no securebits
        del seen["securebits"], seen["unlock"]
    locked = {} if box.name == "gvisor" else {"securebits": 0b11101111, "unlock": "EPERM"}
    assert seen == {"sets": "", "bounding": [], "dumpable": 0, "hostname": "EPERM", **locked}


def test_no_new_privs_is_set_and_stays(box: Living) -> None:
    assert outcomes(box, "libc.prctl(39, 0, 0, 0, 0)", "call(157, 38, 0, 0, 0, 0)") == [1, "EINVAL"]


def test_seccomp_refuses_what_nothing_else_refuses(image: Image, jailed: Boxed) -> None:
    attempts = "outcome(socket.socket, socket.AF_UNIX)", "call(110)", "call(272, 0)", "outcome(os.listdir, '/')"
    with boxes(image, 1) as (plain,):
        assert outcomes(plain, *attempts) == ["EPERM", "EPERM", "EPERM", "done"]
        status = dict(line.split(":\t", 1) for line in proc(plain.pid, "status"))
        assert (status["Seccomp"], status["Seccomp_filters"]) == ("2", "1")
    assert outcomes(jailed, *attempts) == ["done"] * 4


@on_linux
def test_landlock_alone_closes_files(box: Living) -> None:
    """The scratch folder is ours to write: nothing but Landlock says which kinds of files, and that none is run."""
    seen = box.inside(f"""{TRY}
pid = os.fork()
if pid == 0:
    os._exit(errno.__dict__[outcome(os.execve, "/usr/bin/python3", ["python3", "-c", "pass"], {{}})])
_, status = os.waitpid(pid, 0)
print(json.dumps([errno.errorcode.get(os.waitstatus_to_exitcode(status)), outcome(os.mkfifo, "/tmp/f"),
                  outcome(os.symlink, "/", "/tmp/l")]))
""")
    assert seen == ["EACCES"] * 3


@on_linux
def test_landlock_alone_closes_the_network(box: Living) -> None:
    if landlock_version() < 4:
        pytest.skip("this kernel's Landlock knows no network")
    tried = [f"outcome(socket.socket().{act}, ('127.0.0.1', 4444))" for act in ("bind", "connect")]
    assert outcomes(box, *tried) == ["EACCES"] * 2


# Enters the namespaces of the box and stays there, outside of its Landlock domain.
OUTSIDER = """\
import ctypes, os, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
opened = [os.open(f"/proc/{sys.argv[1]}/ns/{kind}", os.O_RDONLY) for kind in ("pid", "net", "user")]
for descriptor in opened:
    assert libc.setns(descriptor, 0) == 0, ctypes.get_errno()
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0outside")
listener.listen()
pid = os.fork()
if pid == 0:
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    print(os.getpid(), flush=True)
    sys.stdin.read()
    os._exit(0)
os.waitpid(pid, 0)
"""


@on_linux
def test_landlock_alone_keeps_signals_and_sockets_inside(box: Living) -> None:
    if landlock_version() < 6:
        pytest.skip("this kernel's Landlock has no scopes")
    if os.geteuid() != 0:
        pytest.skip("only root can enter a box")
    with outsider(box.pid) as pid:
        connects = [f"outcome(socket.socket(socket.AF_UNIX).connect, chr(0) + {name!r})" for name in ("outside", "no")]
        # The second finds nobody, and so nothing to refuse.
        assert outcomes(box, f"outcome(os.kill, {pid}, 0)", *connects) == ["EPERM", "EPERM", "ECONNREFUSED"]


@contextlib.contextmanager
def outsider(pid: int) -> Iterator[int]:
    """A process in the namespaces of process `pid` and nobody there: its number in them."""
    command = [sys.executable, "-c", OUTSIDER, str(pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.communicate()


def landlock_version() -> int:
    return int(ctypes.CDLL(None).syscall(NUMBERS["landlock_create_ruleset"], None, ctypes.c_size_t(0), 1))


def test_rlimits_are_set_and_cannot_be_raised(box: Living) -> None:
    spec = SPEC if box.name == "jail" else docker_boxes.SPEC
    raised = "call(160, 7, ctypes.byref((ctypes.c_ulong * 2)(1 << 16, 1 << 16)))"
    limits = [f"resource.getrlimit(resource.RLIMIT_{name})" for name in ("NOFILE", "AS")]
    files, (soft, hard), refused = outcomes(box, *limits, raised)
    assert (files, refused) == ([spec.open_files] * 2, "EPERM")
    # In the jail it is a share of the memory, above the address space that the box was born with.
    assert soft == hard < 2 * spec.memory_bytes
    assert hard >= (spec.memory_bytes * 7 // 8 if box.name == "jail" else spec.memory_bytes)


@pytest.mark.parametrize("name", ["memory", "cpu", "pids"])
def test_cgroups_have_the_box_and_a_limit(jailed: Boxed, name: str) -> None:
    if f"cgroup.{name}" not in jailed.jail._groups.layers:
        pytest.skip("this host gives no such group")
    files = {
        "memory": ("memory.limit_in_bytes", "memory.max", str(SPEC.memory_bytes)),
        "cpu": ("cpu.cfs_quota_us", "cpu.max", "100000"),
        "pids": ("pids.max", "pids.max", str(SPEC.processes)),
    }[name]
    assert docker_boxes.group_file(jailed.pid, *files[:2]).split()[0] == files[2]


@on_linux
def test_scratch_runs_nothing(box: Living) -> None:
    """Landlock and the filter have no say in a mapping."""
    seen = box.inside(f"""{TRY}
import mmap
with open("/tmp/code", "w+b") as file:
    file.write(bytes(4096)); file.flush()
    print(json.dumps(outcome(lambda: mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_EXEC))))
""")
    assert seen == "EPERM"


def test_descriptors_are_closed(box: Living) -> None:
    wire = [3] if box.name == "jail" else [3, 4]
    assert outcomes(box, "[n for n in range(1024) if outcome(os.fstat, n) == 'done']") == [[0, 1, 2, *wire]]


KEYS = {"add_key": NUMBERS["add_key"], "keyctl": NUMBERS["keyctl"]}


def test_a_key_of_the_hosts_session_is_out_of_reach(image: Image) -> None:
    """A process may read what is in its session's keyring, whoever it has become since."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.syscall(KEYS["keyctl"], 1, None)  # a session of our own, for the test alone
    key = libc.syscall(KEYS["add_key"], b"user", b"belljar canary", b"canary", 6, -3)
    if key < 0:
        pytest.skip("this kernel keeps no keys")
    try:
        # Whoever possesses it may do everything; nobody else may do anything.
        assert libc.syscall(KEYS["keyctl"], 5, key, 0x3F000000) == 0
        with boxes(image, 1, EVERYTHING) as (one,):
            seen = one.inside(f"""{TRY}
data = ctypes.create_string_buffer(16)
print(json.dumps([call({KEYS["keyctl"]}, 11, {key}, data, 16), data.value.decode(),
                  call({KEYS["keyctl"]}, 10, -3, b"user", b"belljar canary", 0)]))
""")
            assert seen == ["EACCES", "", "ENOKEY"]
    finally:
        libc.syscall(KEYS["keyctl"], 9, key, -3)


# ----------------------------------------------------------------------------------------------------- a uid of its own


def owned() -> bool:
    uids = Uids()
    own = uids.block is not None
    uids.close()
    return own


def test_two_boxes_alive_have_two_uids_and_neither_is_anybodys(image: Image) -> None:
    if not owned():
        pytest.skip("only root may give a box a uid of its own")
    with boxes(image, 2) as (one, other):
        assert len(ids_of(one.pid)) == len(ids_of(other.pid)) == 1
        assert not ids_of(one.pid) & ids_of(other.pid)
        assert not (ids_of(one.pid) | ids_of(other.pid)) & {0, NOBODY, *ids_of(zygote_of(one.jail).pid)}
        assert "own_uid" in one.box.layers


def test_where_no_block_is_free_the_boxes_of_root_are_nobodys(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = tmp_path / "not there" / "deeper"
    monkeypatch.setattr(backend, "Uids", lambda: Uids(nowhere))
    with boxes(image, 1) as (one,):
        assert ids_of(one.pid) == ids_of(zygote_of(one.jail).pid) == {os.geteuid() or NOBODY}
        assert set(one.box.layers) == expected(one.jail)
        assert "own_uid" not in one.box.layers


def test_a_uid_comes_back_when_its_box_has_ended(image: Image) -> None:
    if not owned():
        pytest.skip("only root may give a box a uid of its own")

    async def main() -> None:
        jail = Jail(image)
        try:
            await (await jail.start(SPEC)).kill()
            assert jail._uids is not None
            uids, free = jail._uids, len(jail._uids._free)
            alive = [await jail.start(SPEC) for _ in range(3)]
            assert len(uids._free) == free - 3
            for one in alive:
                await one.kill()
            with pytest.raises(LayerMissing):
                await jail.start(msgspec.structs.replace(SPEC, requires=("fairydust",)))
            assert len(uids._free) == free
        finally:
            await jail.aclose()
        assert uids.block is None

    asyncio.run(main())


def test_pipes_of_one_box_leave_its_neighbours_theirs(image: Image) -> None:
    """The kernel counts a user's pipes; beyond its limit each new one holds two pages instead of sixteen."""
    if not owned():
        pytest.skip("only root may give a box a uid of its own")
    pages = int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text())
    count = pages // 16 + 8
    if not 0 < pages <= 65536:
        pytest.skip("this host has no such limit, or a very high one")
    spec = msgspec.structs.replace(SPEC, open_files=2 * count + 64)
    makes = """\
def holds():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    size = os.write(writer, bytes(1 << 20))
    os.close(reader); os.close(writer)
    return size
"""

    async def main() -> list[Any]:
        jail = Jail(image)
        try:
            async with opened(jail, spec) as one, opened(jail, spec) as other:
                many = await one.execute(f"{TRY}{makes}\nkept = [os.pipe() for _ in range({count})]\nprint(holds())")
                return [many.output, (await other.execute(f"{TRY}{makes}\nprint(holds())")).output, many.error]
        finally:
            await jail.aclose()

    assert asyncio.run(main()) == ["8192\n", "65536\n", ""]


# --------------------------------------------------------------------------------------------------------- what is told


def expected(jail: Jail) -> set[str]:
    return {
        *ALWAYS,
        *(["landlock"] if landlock_version() >= 1 else []),
        *(["own_uid"] if jail._uids is not None and jail._uids.block is not None else []),
        *jail._groups.layers,
    }


def test_every_layer_that_this_host_gives_is_told(image: Image) -> None:
    with boxes(image, 1) as (one,):
        assert set(one.box.layers) == expected(one.jail)
        assert len(one.box.layers) == len(set(one.box.layers))


def test_a_zygote_that_was_not_measured_makes_no_box(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = JailBox.measured
    failed: list[JailBox] = []

    async def fails_once(box: JailBox) -> tuple[str, ...]:
        if not failed:
            failed.append(box)
            raise BoxFault("the box that measures died")
        return await measured(box)

    async def main() -> None:
        jail = Jail(image)
        try:
            with pytest.raises(BoxFault, match="measures"):
                await jail.start(SPEC)
            box = await jail.start(SPEC)
            await box.kill()
            assert set(box.layers) == expected(jail)
        finally:
            await jail.aclose()

    monkeypatch.setattr(JailBox, "measured", fails_once)
    asyncio.run(main())


def test_a_filter_that_lets_everything_through_is_none(jailed: Boxed) -> None:
    assert set(jailed.box.layers) == expected(jailed.jail) - {"seccomp"}


BOOT, ZYGOTE, ENCLOSURE = (f"guest/box/{name}.py" for name in ("boot", "zygote", "enclosure"))
# The file in the image, the text of a step, and what stands there instead. The layer is the name up to a colon.
LEFT_OUT = {
    "pidns": (ZYGOTE, "CLONE_NEWPID = 0x20000000", "CLONE_NEWPID = 0"),
    "netns": (ZYGOTE, "| 0x40000000 |", "|"),
    "ipcns": (ZYGOTE, "| 0x08000000 |", "|"),
    "utsns": (ZYGOTE, "| 0x04000000 |", "|"),
    "cgroupns": (ZYGOTE, "| 0x02000000", ""),
    "rootfs: scratch runs programs": (ZYGOTE, "MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8", "MS_NOSUID_NODEV_NOEXEC = 2 | 4"),
    "rootfs: scratch has no bound of bytes": (ZYGOTE, "size={size},", "size=0,"),
    "rootfs: scratch has no bound of files": (ZYGOTE, "nr_inodes={files},", "nr_inodes=0,"),
    "rlimits": (ZYGOTE, '        set_limits(self.order["rlimits"])\n', ""),
    "caps": (ENCLOSURE, '    check("capset", "caps", libc.syscall(numbers["capset"], header, none))\n', ""),
    "caps: bounding set": (ENCLOSURE, "range(CAPABILITIES)", "range(0)"),
    "caps: securebits": (ENCLOSURE, '        prctl("caps", PR_SET_SECUREBITS, SECUREBITS)\n', "        pass\n"),
    "caps: dumpable": (ENCLOSURE, '    prctl("caps", PR_SET_DUMPABLE, 0)\n', ""),
    "landlock": (ZYGOTE, "            restrict(landlock)\n", "            pass\n"),
    "landlock: network": (ENCLOSURE, "3 if version >= 4 else 0", "0"),
    "landlock: signals": (ENCLOSURE, "3 if version >= 6 else 0", "1 if version >= 6 else 0"),
    "landlock: sockets": (ENCLOSURE, "3 if version >= 6 else 0", "2 if version >= 6 else 0"),
    "landlock: files": (ENCLOSURE, "[(scratch, change)]", "[(scratch, files)]"),
    "seccomp": (ZYGOTE, "            FILTER.load()\n", "            pass\n"),
    "own_uid": (ZYGOTE, 'self.leave_the_host(self.order["uid"])', "self.leave_the_host(0)"),
}
READ_ONLY = '    mount("", ".", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)\n'
DETACHED = '    call("umount old root", "rootfs", libc.umount2, b".", MNT_DETACH)\n'
LAUNCHED = {
    "the image can be written": (READ_ONLY, ""),
    "the devices can be changed": ('f"dev/{device}", "", MS_REMOUNT', '"dev/null", "", MS_REMOUNT'),
}
# Without these no box can be built at all.
NEEDED = {
    "userns": (ZYGOTE, "NAMESPACES = 0x10000000 |", "NAMESPACES ="),
    "mountns": (ZYGOTE, "| 0x00020000 |", "|"),
    "no_new_privs": (ENCLOSURE, '    prctl("no_new_privs", PR_SET_NO_NEW_PRIVS, 1)\n', ""),
    "scratch": (ZYGOTE, "        self.mount_scratch()\n", ""),
}


@pytest.mark.parametrize("what", LEFT_OUT)
def test_a_layer_whose_step_is_left_out_is_not_told(image: Image, tmp_path: Path, what: str) -> None:
    with boxes(changed(image, tmp_path, *LEFT_OUT[what]), 1) as (one,):
        assert set(one.box.layers) == expected(one.jail) - {what.partition(":")[0]}


@pytest.mark.parametrize("what", NEEDED)
def test_a_box_without_a_step_that_others_need_is_refused(image: Image, tmp_path: Path, what: str) -> None:
    with pytest.raises(LayerMissing), boxes(changed(image, tmp_path, *NEEDED[what]), 1):
        pass


@pytest.mark.parametrize("what", LAUNCHED)
def test_a_root_that_is_not_tied_down_is_not_told(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    relaunch(monkeypatch, tmp_path, *LAUNCHED[what])
    with boxes(image, 1) as (one,):
        assert set(one.box.layers) == expected(one.jail) - {"rootfs"}


def test_no_box_is_built_beside_the_hosts_root(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relaunch(monkeypatch, tmp_path, DETACHED, "")
    with pytest.raises(LayerMissing), boxes(image, 1):
        pass


def test_no_box_is_built_by_a_launcher_that_stays_root(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not owned():
        pytest.skip("who is not root has none to give up")
    relaunch(monkeypatch, tmp_path, "        give_up_root(first)\n", "")
    with pytest.raises(LayerMissing), boxes(image, 1):
        pass


def relaunch(monkeypatch: pytest.MonkeyPatch, folder: Path, find: str, replace: str) -> None:
    """Have the next zygote made by a launcher with one step changed."""
    launcher = folder / "launcher.py"
    launcher.write_text(replaced(backend._LAUNCHER.read_text(), find, replace))
    monkeypatch.setattr(backend, "_LAUNCHER", launcher)


@pytest.mark.parametrize("name", ["memory", "cpu", "pids"])
def test_a_group_without_a_limit_is_not_told(image: Image, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    put = cgroup._put

    def all_but_one(folder: Path, file: str, text: str) -> None:
        if not file.startswith(f"{name}."):
            put(folder, file, text)

    monkeypatch.setattr(cgroup, "_put", all_but_one)
    with boxes(image, 1) as (one,):
        assert set(one.box.layers) == expected(one.jail) - {f"cgroup.{name}"}


def test_a_box_that_is_in_no_group_is_told_to_have_none(image: Image, tmp_path: Path) -> None:
    step = (ZYGOTE, '            os.write(group, b"0")\n', "            pass\n")
    with boxes(changed(image, tmp_path, *step), 1) as (one,):
        assert set(one.box.layers) == expected(one.jail) - set(one.jail._groups.layers)


CONTAINED = {
    "userns": (BOOT, 'alone = one_user_alone(proc, order["hide"])', "alone = False"),
    "rootfs: the daemon's folders": (BOOT, "    for place in hide:\n", "    for place in ():\n"),
    "rootfs: the daemon's devices": (BOOT, "        few_devices()\n", "        pass\n"),
    "rlimits": (BOOT, "    set_limits(limits)\n", ""),
    "caps": LEFT_OUT["caps: securebits"],
    "landlock": (BOOT, "        restrict(ruleset)\n", "        pass\n"),
    "landlock: signals": LEFT_OUT["landlock: signals"],
    "seccomp": (BOOT, "        Filter(program).load()\n", "        pass\n"),
}
# What the daemon is told to make instead of the template's; it describes what was ordered.
ORDERED: dict[str, dict[str, Any]] = {
    "netns": {"NetworkMode": "host"},
    "ipcns": {"IpcMode": "host"},
    "cgroupns": {"CgroupnsMode": "host"},
    "rootfs": {"ReadonlyRootfs": False},
    "rootfs: scratch runs programs": {"Tmpfs": {"/tmp": "rw,exec,size=4m,nr_inodes=64,mode=0700,uid=65534,gid=65534"}},
    "cgroup.memory": {"Memory": 0, "MemorySwap": 0},
    "cgroup.cpu": {"NanoCpus": 0},
    "cgroup.pids": {"PidsLimit": 0},
}


@pytest.mark.parametrize("name", ["docker", "gvisor"])
def test_every_layer_that_a_container_gives_is_told(docker_host: str, image: Image, name: docker_boxes.Name) -> None:
    with docker_boxes.boxed(name, docker_host, image) as one:
        told = {*one.box.layers} - {"own_uid"}
    assert told == (in_containers() if name == "docker" else in_containers() - {"landlock"} | {"gvisor"})


@pytest.mark.parametrize("what", CONTAINED)
def test_a_container_does_not_tell_a_layer_whose_step_is_left_out(
    docker_host: str, image: Image, tmp_path: Path, what: str
) -> None:
    with docker_boxes.boxed("docker", docker_host, changed(image, tmp_path, *CONTAINED[what])) as one:
        assert in_containers() - {*one.box.layers} == {what.partition(":")[0]}


@pytest.mark.parametrize("what", ORDERED)
def test_a_container_does_not_tell_what_the_daemon_only_says(docker_host: str, image: Image, what: str) -> None:
    ordered: docker_boxes.Document = {}

    def make(options: docker_boxes.Document) -> None:
        ordered.update(options["host_config"])
        own = json.dumps(ORDERED[what]).replace("65534", options["user"].partition(":")[0])
        options["host_config"] |= json.loads(own)
        options["network_disabled"] = False

    def tell(inspected: docker_boxes.Document) -> None:
        inspected["HostConfig"] |= ordered

    async def main() -> set[str]:
        daemon = docker_boxes.Retelling(docker_host, make=make, tell=tell)
        docker = await Docker.open("docker", daemon, image)
        try:
            box = await docker.start(docker_boxes.SPEC)
            await box.kill()
            return {*box.layers}
        finally:
            await docker.aclose()

    assert in_containers() - asyncio.run(main()) == {what.partition(":")[0]}


def in_containers() -> set[str]:
    landlock = ["landlock"] if landlock_version() >= 1 else []
    return {*ALWAYS, *landlock, "cgroup.memory", "cgroup.cpu", "cgroup.pids"}


def changed(image: Image, folder: Path, name: str, find: str, replace: str) -> Image:
    """The image with one file of ours changed; the others are the same files."""
    root = folder / "root"
    shutil.copytree(image.root, root, copy_function=os.link, symlinks=True)
    source = root / "usr/lib/belljar" / name
    text = replaced(source.read_text(), find, replace)
    source.unlink()
    source.write_text(text)
    for cached in source.parent.joinpath("__pycache__").glob(f"{source.stem}.*"):
        cached.unlink()
    return Image(digest=f"sha256:{hashlib.sha256(text.encode()).hexdigest()}", root=root)


def replaced(text: str, find: str, replace: str) -> str:
    assert text.count(find) == 1, find
    return text.replace(find, replace)
