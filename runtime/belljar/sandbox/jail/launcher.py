"""The jail's supervisor: builds one box around one process, watches it, and tells the host how it ended.

Run by the host as `python3 -I -S -B launcher.py CONFIG`, standard library only, with two inherited descriptors: the
*wire* (goes to the guest) and the *control* stream (stays here). Three processes, two streams::

    host  ── control ──  launcher  ── waits for ──  guest (process 1 of the box)
      └──────────────────── wire ────────────────────┘

The launcher holds no secret: it is a fresh interpreter with an empty environment, and after the first steps it has no
way back to the host's files either. What it does, in this order, and why each step is safe when the guest is hostile:

 1. die with the host: parent-death signal, and an end of file on *control* counts as the order to kill;
 2. stand in the image folder (the only thing of the host it will see again; the path comes from the host);
 3. give up root, if it has it, for an unprivileged uid, so that inside and outside agree on "nobody";
 4. fresh user, mount, pid, network, ipc, uts and cgroup namespaces; nobody is mapped, nothing else is, so no set-id
    file and no capability can lead to a uid that matters;
 5. mounts: the image read-only, a small tmpfs as the one writable place, three harmless devices, pivot, detach the rest;
 6. fork; the child is process 1: close every descriptor but the wire, limits, drop the bounding set, no_new_privs,
    then `execve` the image's interpreter, which as a plain uid loses all capabilities;
 7. watch: `interrupt` and `kill` come in on control, one report goes out when process 1 is dead. With it everything in
    its pid namespace is dead too: the kernel sees to that.

Control, outwards, one JSON object a line: {"ready": layers} or {"failed", "layer", "errno"}, at last {"ended": {...}}.
Inwards single bytes: I interrupts, anything else, and the end of file, kills.
"""

import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

NOBODY = 65534
WIRE_FD = 3
# Namespaces one by one, so that a refusal names the layer that this host does not give.
NAMESPACES = (
    ("userns", CLONE_NEWUSER),
    ("mountns", CLONE_NEWNS),
    ("netns", CLONE_NEWNET),
    ("ipcns", CLONE_NEWIPC),
    ("utsns", CLONE_NEWUTS),
    ("cgroupns", CLONE_NEWCGROUP),
    ("pidns", CLONE_NEWPID),
)

libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A step failed: (step, layer, errno)."""


def call(step: str, layer: str, function: "Callable[..., int]", *arguments: object) -> None:
    """Call into libc; a negative result is a Failed with errno."""
    ctypes.set_errno(0)
    if function(*arguments) < 0:
        raise Failed(step, layer, ctypes.get_errno())


def prctl(layer: str, option: int, argument: int = 0) -> None:
    words = [ctypes.c_ulong(value) for value in (argument, 0, 0, 0)]
    call(f"prctl {option}", layer, libc.prctl, option, *words)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    texts = [text.encode() if text else None for text in (source, target, kind)]
    call(f"mount {target}", "rootfs", libc.mount, *texts, ctypes.c_ulong(flags), data.encode() or None)


def write_file(path: str, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Failed(f"write {path}", "userns", error.errno) from None


def die_with_parent() -> None:
    prctl("pidns", PR_SET_PDEATHSIG, signal.SIGKILL)


def give_up_root() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    # A change of uid makes the process undumpable, and then its own /proc/self/uid_map belongs to root.
    prctl("userns", PR_SET_DUMPABLE, 1)
    # A change of credentials also clears the parent-death signal.
    die_with_parent()


def enter_namespaces() -> None:
    uid, gid = os.getuid(), os.getgid()
    for layer, flag in NAMESPACES:
        call("unshare", layer, libc.unshare, flag)
        if flag == CLONE_NEWUSER:
            write_file("/proc/self/setgroups", "deny")
            write_file("/proc/self/uid_map", f"{NOBODY} {uid} 1")
            write_file("/proc/self/gid_map", f"{NOBODY} {gid} 1")
    prctl("userns", PR_SET_DUMPABLE, 0)
    socket.sethostname("belljar")


def build_root(scratch_bytes: int, scratch_files: int) -> None:
    # Nothing we mount may travel back to the host.
    mount("", "/", "", MS_REC | MS_PRIVATE)
    # A place to put the new root, in our own mount namespace only; the working folder stays in the image beneath.
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,nr_inodes=4,mode=0700")  # noqa: S108
    os.mkdir("/tmp/root")  # noqa: S108
    mount(".", "/tmp/root", "", MS_BIND)  # noqa: S108
    os.chdir("/tmp/root")  # noqa: S108
    for device in ("null", "zero", "urandom"):
        mount(f"/dev/{device}", f"dev/{device}", "", MS_BIND)
    scratch = f"size={scratch_bytes},nr_inodes={scratch_files},mode=0700,uid={NOBODY},gid={NOBODY}"
    mount("tmpfs", "tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, scratch)
    mount("", ".", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    # pivot_root(".", ".") stacks the old root upon the new one; detaching it leaves only the new one.
    number = SYS_PIVOT_ROOT[os.uname().machine]
    call("pivot_root", "rootfs", libc.syscall, number, b".", b".")
    call("umount old root", "rootfs", libc.umount2, b".", MNT_DETACH)
    os.chdir("/tmp")  # noqa: S108


def set_limits(limits: "dict[str, int]") -> None:
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        # The hard CPU limit is the kill (SIGXCPU does nothing to a process 1 without a handler).
        resource.setrlimit(number, (value, value))
    # Exactly 1 refuses core files and piped core handlers alike.
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))


def become_guest(config: "dict[str, object]", wire: int) -> None:
    """In the child, process 1 of the box. Never returns."""
    die_with_parent()
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.dup2(wire, WIRE_FD)
    os.set_inheritable(WIRE_FD, True)
    os.closerange(WIRE_FD + 1, 65536)
    set_limits(config["rlimits"])  # type: ignore[arg-type]
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break
    prctl("no_new_privs", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    prctl("no_new_privs", PR_SET_NO_NEW_PRIVS, 1)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execve(str(config["program"][0]), list(config["program"]), {})  # type: ignore[index, call-overload]


def watch(child: int, control: socket.socket) -> None:
    """Pass orders on until process 1 is dead, then report."""
    pidfd = os.pidfd_open(child)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.register(control, select.POLLIN)
    ordered = False
    while True:
        ready = {descriptor for descriptor, _ in poller.poll()}
        if pidfd in ready:
            break
        order = control.recv(1)
        ordered = ordered or order != b"I"
        signal.pidfd_send_signal(pidfd, signal.SIGKILL if ordered else signal.SIGINT)
        if not order:
            poller.unregister(control)
    _, status, usage = os.wait4(child, 0)
    ended = {
        "ordered": ordered,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
        "cpu_ms": round((usage.ru_utime + usage.ru_stime) * 1000),
        "max_rss_bytes": usage.ru_maxrss * 1024,
    }
    tell(control, {"ended": ended})


def tell(control: socket.socket, report: "dict[str, object]") -> None:
    control.sendall(json.dumps(report).encode() + b"\n")


def main() -> None:
    config = json.loads(sys.argv[1])
    control = socket.socket(fileno=config["control"])
    try:
        die_with_parent()
        os.chdir(config["root"])
        give_up_root()
        enter_namespaces()
        build_root(config["scratch_bytes"], config["scratch_files"])
    except Failed as failed:
        step, layer, number = failed.args
        tell(control, {"failed": step, "layer": layer, "errno": number})
        return
    except OSError as error:
        tell(control, {"failed": str(error.strerror), "layer": "rootfs", "errno": error.errno})
        return
    # The first process that is born now is process 1 of the box.
    child = os.fork()
    if child == 0:
        try:
            become_guest(config, config["wire"])
        finally:
            os._exit(127)
    os.close(config["wire"])
    layers = [layer for layer, _ in NAMESPACES]
    tell(control, {"ready": [*layers, "rootfs", "rlimits", "no_new_privs", "caps"]})
    watch(child, control)


if __name__ == "__main__":
    main()
