"""The way into the jail: confines one process inside the image's root and turns it into the zygote.

The host runs it as `python3 -I -S -B launcher.py CONFIG`: standard library only, empty environment, one inherited
descriptor, *control*. It holds no secret: it is a fresh interpreter. What it does, in this order, and why each step is
safe when what comes later is hostile:

 1. die with the host: parent-death signal; the zygote also ends when *control* does. Signals that the host ignores or
    blocks, because of how it was started itself, are reset: a box that blocks SIGINT could not be interrupted;
 2. enter the image folder (the only part of the host that it will see again; the path comes from the host);
 3. give up root, if it has it, for an unprivileged uid: whatever breaks out later is an unimportant user;
 4. fresh user, mount, network, ipc, uts and cgroup namespaces. Only one unprivileged uid is mapped, or the block that
    the host has claimed for its boxes and that nobody else on this machine has, so no set-id file and no capability
    can lead to a uid that matters. Only root may map more than itself: a child (`Mapper`) stays root until it has
    written the maps, does nothing else, and accepts nothing but the message that the namespace exists;
 5. mounts: the image read-only with three harmless devices, an empty place for scratch; pivot, detach the rest;
 6. become the image's own interpreter (`execve`), running the zygote. It keeps a descriptor of the host's /proc: each
    box needs its own `uid_map` once, and closes it before it runs anything.

A step that fails is reported on *control* as {"failed", "layer", "errno"} and nothing runs.
"""

import ctypes
import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Callable

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
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
# On x86_64, the only machine with a filter, and so with boxes.
SYS_PIVOT_ROOT = 155

# Namespaces one by one, so that a refusal names the layer that this host lacks.
NAMESPACES = (
    ("userns", CLONE_NEWUSER),
    ("mountns", CLONE_NEWNS),
    ("netns", CLONE_NEWNET),
    ("ipcns", CLONE_NEWIPC),
    ("utsns", CLONE_NEWUTS),
    ("cgroupns", CLONE_NEWCGROUP),
)

libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A step failed: (step, layer, errno)."""


def call(step: str, layer: str, function: "Callable[..., int]", *arguments: object) -> None:
    """Call into libc; a negative result is a Failed with errno."""
    ctypes.set_errno(0)
    if function(*arguments) < 0:
        raise Failed(step, layer, ctypes.get_errno())


def prctl(layer: str, option: int, argument: int) -> None:
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


def take_signals_as_usual() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # Python itself ignores these two in every process.
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


class Mapper:
    """A child that keeps root for one task: to map `count` ids from `first` on into its parent's user namespace."""

    def __init__(self, first: int, count: int) -> None:
        self.channel, theirs = socket.socketpair()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self.channel.close()
            os._exit(self.serve(theirs, f"/proc/{parent}", f"0 {first} {count}"))
        theirs.close()

    def serve(self, channel: socket.socket, parent: str, ids: str) -> int:
        """In the child: its exit code, an errno."""
        try:
            if channel.recv(1):
                write_maps(parent, ids, ids)
        except Failed as failed:
            return int(failed.args[2])
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def map(self) -> None:
        self.channel.send(b"1")
        _, status = os.waitpid(self.pid, 0)
        if status:
            raise Failed("map the boxes' uids", "userns", os.waitstatus_to_exitcode(status))


def write_maps(process: str, uids: str, gids: str) -> None:
    write_file(f"{process}/setgroups", "deny")
    write_file(f"{process}/uid_map", uids)
    write_file(f"{process}/gid_map", gids)


def give_up_root(uid: int) -> None:
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        except OSError as error:
            # Root of a user namespace with no other uid: we cannot know what it is outside, so we make no box under it.
            raise Failed("give up root", "userns", error.errno) from None
    # A change of uid makes the process undumpable, and then its own /proc/self/uid_map belongs to root.
    prctl("userns", PR_SET_DUMPABLE, 1)
    # A change of credentials also clears the parent-death signal.
    prctl("pidns", PR_SET_PDEATHSIG, signal.SIGKILL)


def enter_namespaces(mapper: "Mapper | None") -> None:
    uid, gid = os.getuid(), os.getgid()
    for layer, flag in NAMESPACES:
        call("unshare", layer, libc.unshare, flag)
        if flag == CLONE_NEWUSER:
            # Root in here, so that the zygote can make boxes; outside it is the unprivileged uid from above.
            if mapper is None:
                write_maps("/proc/self", f"0 {uid} 1", f"0 {gid} 1")
            else:
                mapper.map()
    socket.sethostname("belljar")


def build_root() -> None:
    # Nothing we mount may propagate back to the host.
    mount("", "/", "", MS_REC | MS_PRIVATE)
    # A place for the new root, only in our own mount namespace; the working folder stays in the image beneath.
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,nr_inodes=4,mode=0700")  # noqa: S108
    os.mkdir("/tmp/root")  # noqa: S108
    mount(".", "/tmp/root", "", MS_BIND)  # noqa: S108
    os.chdir("/tmp/root")  # noqa: S108
    for device in ("null", "zero", "urandom"):
        mount(f"/dev/{device}", f"dev/{device}", "", MS_BIND)
        # Writing to a device still works; its times and modes, which all boxes would share, do not change.
        mount("", f"dev/{device}", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC)
    mount("", ".", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    # pivot_root(".", ".") stacks the old root upon the new one; detaching it leaves only the new one.
    call("pivot_root", "rootfs", libc.syscall, SYS_PIVOT_ROOT, b".", b".")
    call("umount old root", "rootfs", libc.umount2, b".", MNT_DETACH)
    os.chdir("/")


def become_zygote(config: "dict[str, object]", control: int, proc: int) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    for descriptor in (control, proc):
        os.set_inheritable(descriptor, True)
    program = [str(word) for word in config["program"]]  # type: ignore[attr-defined]
    environment = dict(config["environment"])  # type: ignore[call-overload]
    # Both come from the host, and nothing of its own environment with them.
    os.execve(program[0], [*program, json.dumps({"control": control, "proc": proc})], environment)  # noqa: S606


def main() -> None:
    config = json.loads(sys.argv[1])
    control = socket.socket(fileno=config["control"])
    try:
        prctl("pidns", PR_SET_PDEATHSIG, signal.SIGKILL)
        take_signals_as_usual()
        os.chdir(config["root"])
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        first, count = config["uids"]
        mapper = Mapper(first, count) if count > 1 else None
        give_up_root(first)
        enter_namespaces(mapper)
        build_root()
        become_zygote(config, control.fileno(), proc)
    except Failed as failed:
        step, layer, number = failed.args
        control.send(json.dumps({"failed": step, "layer": layer, "errno": number}).encode())
    except OSError as error:
        control.send(json.dumps({"failed": str(error.strerror), "layer": "rootfs", "errno": error.errno}).encode())


if __name__ == "__main__":
    main()
