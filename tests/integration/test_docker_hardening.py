"""Every option of a container, asserted twice: from outside, by the daemon's word and by what the host's kernel says of
the process; and from inside, by a guest program that tries, and by a program that has the template alone around it
(`bare`), because behind the walls that `boot` adds a missing option would not be seen.

Under gVisor the process on the host is its kernel (the *Sentry*), and the inside is that kernel's view.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker.errors
import pytest

from belljar.sandbox import Image, ensure_image
from belljar.sandbox.base import rlimits
from belljar.sandbox.docker.backend import CPU_SPARE_S
from belljar.sandbox.docker.options import host_config
from belljar.sandbox.docker.profile import docker_profile
from belljar.sandbox.seccomp import load_allowlist
from belljar.sandbox.uids import RANGE_FIRST, RANGE_UIDS
from tests.integration.docker_boxes import MIB, RUNTIMES, SPEC, Boxed, Name, bare, boxed, status_of

NAMES: list[Name] = ["docker", "gvisor"]
# What gVisor's kernel and file server get besides.
SENTRY_BYTES, SENTRY_THREADS = 96 * MIB, 512

LOOK = """
import json, os
def read(name):
    try:
        with open(f"/proc/{name}") as file: return file.read()
    except OSError as error: return error.strerror
names = ("self/status", "self/mountinfo", "self/cgroup", "self/environ", "net/dev", "net/route", "version")
found = {name: read(name) for name in names}
found |= {name: os.listdir(f"/{name}") for name in ("sys", "dev")}
found["hostname"], found["pid"] = os.uname().nodename, os.getpid()
found["ids"] = [*os.getresuid(), *os.getresgid()]
print(json.dumps(found))
"""
# Names the errors of what a program tries.
TRY = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = libc.syscall(ctypes.c_long(number), *words)
    return "made" if result >= 0 else errno.errorcode[ctypes.get_errno()]
def attempt(act, *arguments):
    try: act(*arguments)
    except OSError as error: return errno.errorcode[error.errno]
    return "made"
"""


@pytest.fixture(scope="module")
def image(images: Path) -> Image:
    return ensure_image(images)


@pytest.fixture(scope="module", params=NAMES)
def box(request: pytest.FixtureRequest, docker_host: str, image: Image) -> Iterator[Boxed]:
    with boxed(request.param, docker_host, image) as box:
        yield box


@pytest.fixture(scope="module")
def alone(box: Boxed, docker_host: str, image: Image) -> dict[str, Any]:
    """What the template alone shows to a program, without `boot`."""
    found = bare(box.name, docker_host, image, LOOK).said
    assert isinstance(found, dict)
    return found


def mounts(text: str) -> dict[str, dict[str, Any]]:
    """By mount point, the last one over it: kind, options of the mount and of the file system."""
    found = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        kind, source, options = right.split(" ", 2)
        _, _, _, root, point, flags = left.split(" ")[:6]
        every = {*flags.split(","), *options.split(",")}
        found[point] = {"kind": kind, "source": source, "root": root, "flags": set(flags.split(",")), "all": every}
    return found


# ------------------------------------------------------------------------------------------------------------ runtime


def test_runtime_from_outside(box: Boxed) -> None:
    assert box.host["Runtime"] == RUNTIMES[box.name]
    program = os.path.basename(os.readlink(f"/proc/{box.pid}/exe"))
    assert program.startswith("runsc" if box.name == "gvisor" else "python3")


def test_runtime_from_inside(box: Boxed, alone: dict[str, Any]) -> None:
    release = box.inside(f"{TRY}\nprint(json.dumps(os.uname().release))")
    if box.name == "gvisor":
        assert "Sun Jan 10 15:06:54 PST 2016" in alone["version"]
        assert release != os.uname().release
    else:
        assert release == os.uname().release


def test_init_from_outside(box: Boxed) -> None:
    assert box.host["Init"] is False
    if box.name == "docker":
        assert box.status()["NSpid"].split()[-1] == "1"


def test_init_from_inside(box: Boxed, alone: dict[str, Any]) -> None:
    assert alone["pid"] == 1
    assert box.inside("import os; print(os.getpid())") == 1


# ------------------------------------------------------------------------------------------------------------ network


def test_network_none_from_outside(box: Boxed) -> None:
    assert box.host["NetworkMode"] == "none"
    assert box.config["NetworkDisabled"] is True
    assert box.inspected["NetworkSettings"]["Networks"] in ({}, None)
    assert os.readlink(f"/proc/{box.pid}/ns/net") != os.readlink("/proc/self/ns/net")
    interfaces = [line.split(":")[0].strip() for line in box.proc("net/dev").splitlines() if ":" in line]
    assert interfaces in (["lo"], [])
    assert box.proc("net/route").splitlines()[1:] == []


def test_network_none_from_inside(box: Boxed, alone: dict[str, Any]) -> None:
    interfaces = [line.split(":")[0].strip() for line in alone["net/dev"].splitlines() if ":" in line]
    assert interfaces in (["lo"], [])
    families = box.inside(f"{TRY}\nimport socket\nprint(json.dumps([attempt(socket.socket, f) for f in range(1, 46)]))")
    assert set(families) == {"EPERM"}


# ----------------------------------------------------------------------------------------------------- the file system


def test_read_only_root_from_outside(box: Boxed) -> None:
    assert box.host["ReadonlyRootfs"] is True
    assert "ro" in mounts(box.proc("mountinfo"))["/"]["flags"]


def test_read_only_root_from_inside(box: Boxed, alone: dict[str, Any], docker_host: str, image: Image) -> None:
    tries = f"""{TRY}
places = ["/x", "/usr/x", "/usr/lib/belljar/x", "/etc/x", "/dev/x", "/dev/shm/x", "/sys/x", "/var/x"]
found = [attempt(os.mkdir, place) for place in places]
found += [attempt(open, place, "w") for place in (*places, "/usr/lib/belljar/guest/box/boot.py", "/usr/bin/python3")]
found += [attempt(os.unlink, "/usr/lib/belljar/guest/box/boot.py"), attempt(os.rename, "/usr", "/tmp/usr")]
"""
    assert "ro" in mounts(alone["self/mountinfo"])["/"]["flags"]
    by_template = bare(box.name, docker_host, image, f"{tries}\nimport json; print(json.dumps(found))").said
    for refused in (by_template, box.inside(f"{tries}\nprint(json.dumps(found))")):
        assert set(refused) <= {"EROFS", "EACCES", "EPERM", "ENOENT", "EXDEV", "EBUSY"}, refused


def test_scratch_from_outside(box: Boxed) -> None:
    """Sized, and nothing in it can be run, raise anybody or be a device."""
    option = box.host["Tmpfs"]["/tmp"]
    assert {"noexec", "nosuid", "nodev", f"size={SPEC.scratch_bytes}", f"nr_inodes={SPEC.scratch_files}"} <= {
        *option.split(",")
    }
    assert set(box.host["Tmpfs"]) == {"/tmp", "/sys", *(["/dev/shm"] if box.name == "gvisor" else [])}
    if box.name == "docker":
        scratch = mounts(box.proc("mountinfo"))["/tmp"]
        assert scratch["kind"] == "tmpfs"
        owner = f"uid={user_of(box)}"
        assert {"noexec", "nosuid", "nodev", "size=4096k", "nr_inodes=64", "mode=700", owner} <= scratch["all"]
        at = os.statvfs(Path("/proc", str(box.pid), "root", "tmp"))
        assert (at.f_frsize * at.f_blocks, at.f_files) == (SPEC.scratch_bytes, SPEC.scratch_files)


def test_scratch_from_inside(box: Boxed, alone: dict[str, Any], docker_host: str, image: Image) -> None:
    program = """
open("/tmp/program", "w").write("#!/usr/bin/python3\\n")
os.chmod("/tmp/program", 0o755)
print(json.dumps(attempt(os.execv, "/tmp/program", ["program"])))
"""
    assert bare(box.name, docker_host, image, f"import json\n{TRY}{program}").said == "EACCES"
    assert {"rw", "noexec"} <= mounts(alone["self/mountinfo"])["/tmp"]["flags"]
    found = box.inside(f"""{TRY}
import mmap
def fill():
    for number in range(8):
        with open(f"/tmp/part{{number}}", "wb") as file: file.write(b"x" * 2**20)
full = attempt(fill)
size = sum(os.stat(f"/tmp/{{name}}").st_size for name in os.listdir("/tmp"))
for name in os.listdir("/tmp"): os.unlink(f"/tmp/{{name}}")
open("/tmp/program", "wb").write(b"x" * 4096)
with open("/tmp/program", "r+b") as file:
    runs = attempt(lambda: mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC))
device = attempt(os.mknod, "/tmp/device", 0o20666, os.makedev(1, 1))
os.unlink("/tmp/program")
print(json.dumps([full, size, runs, device]))
""")
    full, size, runs, device = found
    assert full == "ENOSPC"
    assert size <= SPEC.scratch_bytes
    # gVisor's of 2022 looks at it when a program is started, and not when a file becomes memory that can run.
    assert runs in (("EPERM", "EACCES") if box.name == "docker" else ("EPERM", "EACCES", "made"))
    assert device == "EPERM"


def test_no_bind_mount_and_no_volume_from_outside(box: Boxed) -> None:
    assert box.inspected["Mounts"] == []
    for name in ("Binds", "Mounts", "VolumesFrom", "Devices", "DeviceRequests"):
        assert not box.host.get(name), name
    assert not box.config["Volumes"]
    if box.name == "docker":
        there = mounts(box.proc("mountinfo"))
        # A host name of our own choosing: what every container is given, covered by an empty folder.
        on_disk = {point for point, mount in there.items() if mount["source"].startswith("/")}
        assert on_disk <= {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}
        for covered in ("/etc", "/proc"):
            assert (there[covered]["kind"], there[covered]["flags"] & {"ro", "rw"}) == ("tmpfs", {"ro"})


def test_no_bind_mount_and_no_volume_from_inside(box: Boxed, alone: dict[str, Any]) -> None:
    known = {"/", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/proc", "/sys", "/tmp", "/etc/hostname"}
    others = {point for point in mounts(alone["self/mountinfo"]) if not point.startswith(("/proc/", "/sys/fs/cgroup"))}
    assert others <= known
    assert alone["sys"] == []
    seen = box.inside(f"""{TRY}
def look(folder):
    try: return sorted(os.listdir(folder))
    except OSError: return []
print(json.dumps([look("/etc"), look("/sys"), look("/mnt"), look("/home"), look("/var")]))
""")
    # gVisor covers nothing: what stands in its /etc it has made itself.
    assert set(seen[0]) <= ({"hostname", "hosts", "resolv.conf", "mtab"} if box.name == "gvisor" else set())
    assert seen[1:] == [[], [], [], []]


def test_devices_from_inside(box: Boxed, alone: dict[str, Any]) -> None:
    harmless = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "fd", "stdin", "stdout", "stderr"}
    # gVisor's own kernel has the last two; behind them is no host.
    assert set(alone["dev"]) <= harmless | {"mqueue"} | ({"shm", "net", "fuse"} if box.name == "gvisor" else set())


# ---------------------------------------------------------------------------------------------------------- privileges


def test_capabilities_from_outside(box: Boxed) -> None:
    assert box.host["CapDrop"] == ["ALL"]
    assert not box.host["CapAdd"]
    assert box.host["Privileged"] is False
    if box.name == "docker":
        sets = [box.status()[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
        assert {int(mask, 16) for mask in sets} == {0}
    else:  # the Sentry's own count in its own user namespace alone
        assert os.readlink(f"/proc/{box.pid}/ns/user") != os.readlink("/proc/self/ns/user")


def test_capabilities_from_inside(box: Boxed, alone: dict[str, Any]) -> None:
    status = status_of(alone["self/status"])
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")} == {0}
    found = box.inside(f"""{TRY}
found = [attempt(os.chroot, "/tmp"), attempt(os.setuid, 0), attempt(os.setgid, 0), attempt(os.chown, "/tmp", 0, 0)]
found += [call(165, b"none", b"/tmp", b"tmpfs", 0, 0), call(170, b"other", 5), call(126, bytes(8), bytes(24))]
print(json.dumps(found))
""")
    assert set(found) == {"EPERM"}


def test_no_new_privileges_from_outside(box: Boxed) -> None:
    assert "no-new-privileges:true" in box.host["SecurityOpt"]
    assert box.status()["NoNewPrivs"] == "1"


def test_no_new_privileges_from_inside(box: Boxed, docker_host: str, image: Image) -> None:
    asked = bare(box.name, docker_host, image, "import ctypes; print(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))").said
    assert asked == 1
    # And nobody could be raised: no file in the image has the bits for it.
    raising = box.inside("""
import os
print(json.dumps([name for top, _, names in os.walk("/usr") for name in names
                  if os.lstat(os.path.join(top, name)).st_mode & 0o6000]))
""")
    assert raising == []


def test_seccomp_from_outside(box: Boxed) -> None:
    (_, profile) = box.host["SecurityOpt"]
    assert profile == f"seccomp={docker_profile(load_allowlist())}"
    status = box.status()
    assert status["Seccomp"] == "2"
    # The daemon's and the box's own. Under gVisor it is the Sentry's.
    assert int(status["Seccomp_filters"]) >= (2 if box.name == "docker" else 1)


def test_seccomp_from_inside(box: Boxed, docker_host: str, image: Image) -> None:
    # ptrace, bpf, io_uring_setup, userfaultfd, keyctl, perf_event_open, memfd_create, kexec_load
    tries = f"{TRY}\nfound = [call(number, 0, 0, 0, 0) for number in (101, 321, 425, 323, 250, 298, 319, 246)]"
    assert set(box.inside(f"{tries}\nprint(json.dumps(found))")) == {"EPERM"}
    if box.name == "docker":  # gVisor does not give the daemon's filter to its kernel
        by_template = bare(box.name, docker_host, image, f"{tries}\nimport json; print(json.dumps(found))").said
        # Docker 20.10 does not know that a profile can say which error.
        assert set(by_template) in ({"ENOSYS"}, {"EPERM"})


def user_of(box: Boxed) -> str:
    """The box's number on the host, the same for its group."""
    user, _, group = str(box.config["User"]).partition(":")
    assert user == group
    return user


def test_user_from_outside(box: Boxed) -> None:
    """One of our own range where we may give one out; gVisor's runtime makes nobody of everybody."""
    user, status = user_of(box), box.status()
    if box.name == "docker" and os.geteuid() == 0:
        assert RANGE_FIRST <= int(user) < RANGE_FIRST + RANGE_UIDS
    else:
        assert user == "65534"
    assert not box.host["GroupAdd"]
    assert {*status["Uid"].split(), *status["Gid"].split(), *status["Groups"].split()} == {user}
    assert ("own_uid" in box.box.layers) == (user != "65534")
    if box.name == "docker":
        assert box.proc("uid_map").split() == ["65534", user, "1"]
        assert box.proc("gid_map").split() == ["65534", user, "1"]


def test_user_from_inside(box: Boxed, alone: dict[str, Any]) -> None:
    assert set(alone["ids"]) == {65534}
    found = box.inside("""
import os
open("/tmp/mine", "w").close()
mine = os.stat("/tmp/mine")
os.unlink("/tmp/mine")
print(json.dumps([os.getuid(), os.geteuid(), os.getgid(), os.getegid(), mine.st_uid, mine.st_gid]))
""")
    assert set(found) == {65534}


# ---------------------------------------------------------------------------------------------------------- namespaces


def test_namespaces_from_outside(box: Boxed) -> None:
    apart = {"net", "mnt", "ipc", "uts", "user"}
    # gVisor's kernel is a process among the host's; those that its box sees are its own.
    apart |= {"pid", "cgroup"} if box.name == "docker" else set()
    shared = {
        name for name in apart if os.readlink(f"/proc/{box.pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")
    }
    assert shared == set()
    assert [box.host[name] for name in ("PidMode", "UTSMode", "UsernsMode")] == ["", "", ""]


def test_ipc_private_from_outside(box: Boxed) -> None:
    assert box.host["IpcMode"] == "none"
    assert os.readlink(f"/proc/{box.pid}/ns/ipc") != os.readlink("/proc/self/ns/ipc")


def test_ipc_private_from_inside(box: Boxed, alone: dict[str, Any]) -> None:
    shared = mounts(alone["self/mountinfo"]).get("/dev/shm")
    assert (shared is None) if box.name == "docker" else (shared is not None and "ro" in shared["flags"])
    # shmget, semget, msgget, mq_open
    tries = (
        "[call(29, 0, 4096, 0o1600), call(64, 0, 1, 0o1600), call(68, 0, 0o1600), call(240, b'queue', 0o102, 0o600, 0)]"
    )
    assert set(box.inside(f"{TRY}\nprint(json.dumps({tries}))")) == {"EPERM"}
    assert box.inside(f"{TRY}\nprint(json.dumps(attempt(open, '/dev/shm/x', 'w')))") in ("ENOENT", "EROFS", "EACCES")


def test_cgroup_namespace_private_from_outside(box: Boxed) -> None:
    assert box.host["CgroupnsMode"] == "private"
    if box.name == "docker":
        assert os.readlink(f"/proc/{box.pid}/ns/cgroup") != os.readlink("/proc/self/ns/cgroup")


def test_cgroup_namespace_private_from_inside(box: Boxed, alone: dict[str, Any]) -> None:
    assert {line.split(":", 2)[2] for line in alone["self/cgroup"].splitlines()} <= {"/"}
    assert box.container not in json.dumps(alone["self/cgroup"])
    assert box.inside(f"{TRY}\nprint(json.dumps(attempt(os.listdir, '/sys/fs/cgroup')))") in ("EACCES", "ENOENT")


def test_hostname_constant_from_outside(box: Boxed) -> None:
    assert (box.config["Hostname"], box.config["Domainname"]) == ("belljar", "")


def test_hostname_constant_from_inside(box: Boxed, alone: dict[str, Any]) -> None:
    assert alone["hostname"] == "belljar"
    assert box.inside("import platform; print(json.dumps(platform.node()))") == "belljar"


def test_environment_from_outside(box: Boxed) -> None:
    seed = box.backend.about()["hash_seed"]
    assert box.config["Env"] == [f"PYTHONHASHSEED={seed}"]
    assert int(seed) > 0
    if box.name == "docker":
        # What the daemon adds of itself, as it stood when the process began: nothing of this machine's.
        names = {word.partition("=")[0] for word in box.proc("environ").split("\0") if word}
        assert names <= {"PATH", "HOSTNAME", "HOME", "PYTHONHASHSEED"}


def test_environment_from_inside(box: Boxed, alone: dict[str, Any]) -> None:
    given = dict(word.split("=", 1) for word in alone["self/environ"].split("\0") if word)
    assert given.keys() <= {"PATH", "HOSTNAME", "HOME", "PYTHONHASHSEED"}
    assert given["HOSTNAME"] == "belljar"
    libc = "import ctypes, os; libc = ctypes.CDLL(None); libc.getenv.restype = ctypes.c_char_p"
    assert box.inside(f"{libc}\nprint(json.dumps([dict(os.environ), libc.getenv(b'PATH')]))") == [{}, None]


# -------------------------------------------------------------------------------------------------------------- limits


def test_pids_limit_from_outside(box: Boxed) -> None:
    limit = SPEC.processes + (SENTRY_THREADS if box.name == "gvisor" else 0)
    assert box.host["PidsLimit"] == limit
    assert box.group("pids.max") == str(limit)


THREADS = f"""
import threading
over, threads = threading.Event(), []
try:
    for _ in range({SPEC.processes * 2}):
        threads.append(threading.Thread(target=over.wait)); threads[-1].start()
except RuntimeError: threads.pop()
over.set()
for thread in threads: thread.join()
print(len(threads))
"""


def test_pids_limit_from_inside(box: Boxed) -> None:
    if box.name == "docker":
        ours = int(box.status()["Threads"])
        assert ours + box.inside(THREADS) == SPEC.processes
    else:  # the Sentry's threads are counted, not the program's; those are bounded by its memory
        assert box.inside(THREADS) > 0


def test_memory_without_swap_from_outside(box: Boxed) -> None:
    limit = SPEC.memory_bytes + (SENTRY_BYTES if box.name == "gvisor" else 0)
    assert box.host["Memory"] == box.host["MemorySwap"] == limit
    assert box.host["MemorySwappiness"] == 0
    assert not box.host["OomKillDisable"]
    assert box.group("memory.limit_in_bytes", "memory.max") == str(limit)
    # Version 1 counts memory and swap together, version 2 swap alone.
    assert box.group("memory.memsw.limit_in_bytes", "memory.swap.max") in (str(limit), "0")


def test_memory_without_swap_from_inside(box: Boxed) -> None:
    asked = box.inside(f"""
found = []
for size in ({SPEC.memory_bytes // 8}, {SPEC.memory_bytes}):
    try: found.append(len(bytes(size)))
    except MemoryError: found.append("MemoryError")
print(json.dumps(found))
""")
    assert asked == [SPEC.memory_bytes // 8, "MemoryError"]


def test_nano_cpus_from_outside(box: Boxed) -> None:
    assert box.host["NanoCpus"] == 10**9
    quota = box.group("cpu.cfs_quota_us", "cpu.max").split()[0]
    period = box.group("cpu.cfs_period_us", "cpu.max").split()[-1]
    assert quota == period == "100000"


def test_nano_cpus_from_inside(box: Boxed) -> None:
    """Three busy processes get one CPU together."""
    before = box.used_cpu_s()
    took = box.inside("""
import os, time
started = time.monotonic()
for _ in range(3):
    if os.fork() == 0:
        while time.monotonic() < started + 1.5: pass
        os._exit(0)
for _ in range(3): os.wait()
print(time.monotonic() - started)
""")
    used = box.used_cpu_s() - before
    # A quota is for each period of 100 ms, and what is left of one may be used in the next.
    assert 0 < used < took * 1.15 + 0.2


def test_ulimits_from_outside(box: Boxed) -> None:
    given = {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in box.host["Ulimits"]}
    expected = {**rlimits(SPEC), "CPU": rlimits(SPEC)["CPU"] + CPU_SPARE_S}
    names = ("nofile", "fsize", "stack", "memlock", "msgqueue", "sigpending", "core")
    for name in names:
        assert given[name] == (expected[name.upper()], expected[name.upper()])
    assert given["rtprio"] == given["nice"] == (0, 0)
    if box.name == "docker":
        rows = [re.split(r"\s{2,}", line) for line in box.proc("limits").splitlines()[1:]]
        found = {row[0].removeprefix("Max "): tuple(row[1:3]) for row in rows}
        for words, name in {
            "open files": "NOFILE",
            "file size": "FSIZE",
            "stack size": "STACK",
            "core file size": "CORE",
            "locked memory": "MEMLOCK",
            "msgqueue size": "MSGQUEUE",
            "pending signals": "SIGPENDING",
            "address space": "AS",
            "cpu time": "CPU",
            "processes": "NPROC",
        }.items():
            assert found[words] == (str(expected[name]), str(expected[name])), words


def test_ulimits_from_inside(box: Boxed) -> None:
    skipped = {"CPU", "MSGQUEUE", "SIGPENDING"} if box.name == "gvisor" else set()
    limits = {**rlimits(SPEC), "CPU": rlimits(SPEC)["CPU"] + CPU_SPARE_S}
    expected = {name: [value, value] for name, value in limits.items() if name not in skipped}
    names = json.dumps(sorted(expected))
    found = box.inside(f"""
import resource
print(json.dumps({{name: resource.getrlimit(getattr(resource, f"RLIMIT_{{name}}")) for name in {names}}}))
""")
    assert found == expected


# ------------------------------------------------------------------------------------------------- log, restart, labels


def test_log_driver_none_from_outside(box: Boxed) -> None:
    assert box.host["LogConfig"] == {"Type": "none", "Config": {}}
    assert box.inspected["LogPath"] == ""
    box.run("print('to be read by nobody else')")
    with pytest.raises(docker.errors.APIError, match="does not support reading"):
        box.client.logs(box.container)


def test_log_driver_none_from_inside(box: Boxed) -> None:
    """Its own descriptors lead nowhere; one that is written to would break the wire."""
    assert box.inside("import os; print(json.dumps([os.write(number, b'x' * 9) for number in (1, 2)]))") == [9, 9]
    assert box.inside("print(1)") == 1


def test_never_started_again_from_outside(box: Boxed) -> None:
    assert box.host["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert box.host["AutoRemove"] is False
    assert box.inspected["RestartCount"] == 0


def test_labels_from_outside(box: Boxed) -> None:
    """Run, tenant (with its slashes) and creator: found by each of them."""
    labels = box.config["Labels"]
    assert (labels["belljar.run"], labels["belljar.tenant"]) == (box.about["run"], "acme/research/alice")
    assert labels["belljar.creator"].split("/")[-1].startswith(f"{os.getpid()}-")
    for name in ("run", "tenant", "creator"):
        wanted = f"belljar.{name}={labels[f'belljar.{name}']}"
        found = [each["Id"] for each in box.client.containers(filters={"label": wanted})]
        assert box.container in found, wanted


def test_the_image_is_the_one_that_was_loaded_from_outside(box: Boxed) -> None:
    assert box.config["Image"] == box.inspected["Image"]
    assert box.config["Labels"]["belljar.digest"] == box.backend.about()["image"]


# Each option of the template, and the tests above that look at it.
LOOKS = {
    "Runtime": "runtime",
    "NetworkMode": "network_none",
    "ReadonlyRootfs": "read_only_root",
    "Tmpfs": "scratch",
    "CapDrop": "capabilities",
    "SecurityOpt": "no_new_privileges seccomp",
    "IpcMode": "ipc_private",
    "CgroupnsMode": "cgroup_namespace_private",
    "PidsLimit": "pids_limit",
    "Memory": "memory_without_swap",
    "MemorySwap": "memory_without_swap",
    "MemorySwappiness": "memory_without_swap",
    "NanoCpus": "nano_cpus",
    "Ulimits": "ulimits",
    "LogConfig": "log_driver_none",
    "Init": "init",
    "RestartPolicy": "never_started_again",
    "AutoRemove": "never_started_again",
}
# What a program can see nothing of.
OUTSIDE_ALONE = {"never_started_again"}


def test_every_option_is_looked_at_from_outside_and_from_inside() -> None:
    assert host_config(SPEC, "runc", "").keys() == LOOKS.keys()
    looks = {name for names in LOOKS.values() for name in names.split()}
    wanted = {f"test_{name}_from_outside" for name in looks}
    wanted |= {f"test_{name}_from_inside" for name in looks - OUTSIDE_ALONE}
    assert wanted <= {name for name, value in globals().items() if callable(value)}
