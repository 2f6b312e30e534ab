"""The zygote: a warm interpreter inside the image's root that clones itself into boxes.

It is in the image; the launcher starts it, with *control* (a SOCK_SEQPACKET to the host) and a descriptor of the host's
/proc. It has loaded everything a guest program commonly uses, and never runs guest code; a box is a clone of it in
fresh namespaces, so starting a box costs only that, and not an interpreter's start.

    host    {"box": 7, "uid": 3, "limits": ...} + [wire, report, cgroup.procs...]   ->  zygote
    zygote  clone(pid)
      box     locks itself down (`Enclosure` explains the order)
      box     {"closed": true} + [pidfd, scratch]  on *report*  ->  host      or {"failed", "layer", "errno"}
      box     runs the guest agent on the wire
    zygote  {"box": 7, "ended": {...}}                            ->  host      when the box's process 1 is dead

The host kills and interrupts through the pidfd and needs no help for that. The zygote only waits for its children and
reports their ends. It ends when *control* does, and by the parent-death signal when the host dies; its boxes die with
it by the same signal.

The first box of a zygote is a test box. It takes the same steps as every other box, and the layers that it finds to
hold (`guest.box.measure`) are those that the host reports for all of them.
"""

import array
import errno
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys

sys.path.insert(0, "/usr/lib/belljar")

from guest.agent import chance, clock
from guest.agent import loop as agent
from guest.box.enclosure import (
    be_nobody,
    close_all_but,
    drop_capabilities,
    landlock_ruleset,
    restrict,
    set_limits,
    tune_malloc,
    write_id_maps,
)
from guest.box.kernel import Failed, Filter, check, clone, last_errno, libc, mount, prctl, system_call

CLONE_NEWPID = 0x20000000
# In the order of the names: user, mount, net, ipc, uts, cgroup.
NAMESPACES = 0x10000000 | 0x00020000 | 0x40000000 | 0x08000000 | 0x04000000 | 0x02000000
MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
KEYCTL_JOIN_SESSION_KEYRING = 1
NOBODY = 65534
WIRE_FD = 3
MESSAGE_BYTES_MAX = 16384


class Enclosure:
    """What a newborn box does to itself, in this order. Every step is irreversible and needs the ones before it.

    1. charge everything from here on to the box's own cgroups;
    2. take the box's own uid of the host, then fresh namespaces: in the user namespace be nobody, the only user;
    3. die with the zygote, which a change of uid would undo; its own session and keyring;
    4. a private tmpfs, the only writable place, bounded in bytes and inodes;
    5. send the host the handles it needs (pidfd, scratch), which are made while that is still possible;
    6. close every descriptor but the wire;
    7. resource limits;
    8. no capability is left in any set, and none can come back;
    9. Landlock: read the image, write the scratch, no network, no signals to outside;
    10. the system call allowlist, last, because it forbids most of the above.
    """

    def __init__(self, order: dict, wire: int, report: socket.socket, groups: list, proc: int) -> None:  # type: ignore[type-arg]
        self.order = order
        self.wire = wire
        self.report = report
        self.groups = groups
        self.proc = proc
        # A test box: it checks each layer and reports, and runs no program (`guest.box.measure`).
        self.measure = None
        if "measure" in order:
            self.measure = importlib.import_module("guest.box.measure").Measure(proc, order["measure"]["fresh"])

    def close(self) -> None:
        for group in self.groups:
            os.write(group, b"0")
        self.leave_the_host(self.order["uid"])
        prctl("pidns", PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        own_keyring()
        self.mount_scratch()
        landlock = landlock_ruleset(["/"], ["/dev"], "/tmp")  # noqa: S108
        scratch = os.open("/tmp", os.O_PATH | os.O_DIRECTORY)  # noqa: S108
        pidfd = os.pidfd_open(os.getpid())
        set_limits(self.order["rlimits"])
        drop_capabilities()
        if self.measure is not None:
            self.measure.before_landlock(self.order["measure"])
        if landlock is not None:
            restrict(landlock)
        if self.measure is not None:
            self.measure.before_filter()
        send(self.report, {"closed": True}, [pidfd, scratch])
        close_all_but({self.wire: WIRE_FD})
        assert FILTER is not None
        FILTER.load()
        if self.measure is not None:
            tell_and_wait(WIRE_FD, self.measure.behind_filter())

    def leave_the_host(self, uid: int) -> None:
        """Be `uid` in the zygote's user namespace and nobody in a new one. Its owner has no rights in the zygote's."""
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        # A change of uid makes a process undumpable, and then only root may write its maps.
        prctl("userns", PR_SET_DUMPABLE, 1)
        check("unshare", "userns", libc.unshare(NAMESPACES))
        write_id_maps(self.proc, NOBODY, uid)
        be_nobody()

    def mount_scratch(self) -> None:
        size, files = self.order["scratch_bytes"], self.order["scratch_files"]
        data = f"size={size},nr_inodes={files},mode=0700,uid={NOBODY},gid={NOBODY}"
        mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID_NODEV_NOEXEC, data)  # noqa: S108
        os.chdir("/tmp")  # noqa: S108


def send(channel: socket.socket, message: object, descriptors: "list[int]") -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    channel.sendmsg([json.dumps(message).encode()], rights)


def own_keyring() -> None:
    """Leave the host's session keyring, whose keys this process could read."""
    if system_call("keyctl", KEYCTL_JOIN_SESSION_KEYRING, None) < 0:
        number = last_errno()
        if number != errno.ENOSYS:  # a kernel without keys
            raise Failed("keyctl", "caps", number)


def tell_and_wait(wire: int, layers: "list[str]") -> None:
    """Never returns. The host also checks this process from outside, then kills it."""
    os.write(wire, json.dumps(layers).encode() + b"\n")
    os.read(wire, 1)
    os._exit(0)


def be_a_box(order: dict, descriptors: "list[int]", proc: int) -> None:  # type: ignore[type-arg]
    """In the clone. Never returns.

    The program can walk the frames below its own, and the host's orders and descriptors would reveal how many boxes
    other tenants have: nothing of them is left in any frame.
    """
    status = 127
    try:
        wire, report, *groups = descriptors
        channel = socket.socket(fileno=report)
        try:
            Enclosure(order, wire, channel, groups, proc).close()
        except Failed as failed:
            step, layer, number = failed.args
            send(channel, {"failed": step, "layer": layer, "errno": number}, [])
            return
        except OSError as error:
            send(channel, {"failed": str(error.strerror), "layer": "rootfs", "errno": error.errno}, [])
            return
        channel.detach()
        order.clear()
        descriptors.clear()
        del wire, report, groups, channel
        agent.main()
        status = 0
    finally:
        os._exit(status)


class Zygote:
    """The loop: orders in, births, ends out."""

    def __init__(self, control: socket.socket, proc: int) -> None:
        self.control = control
        self.proc = proc
        self.poller = select.poll()
        self.poller.register(control, select.POLLIN)
        self.boxes: dict[int, tuple[int, int]] = {}

    def run(self) -> None:
        while True:
            for descriptor, _ in self.poller.poll():
                if descriptor in self.boxes:
                    self.bury(descriptor)
                elif not self.obey():
                    return

    def obey(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self.control, MESSAGE_BYTES_MAX, 16)
        if not message:
            return False
        order = json.loads(message)
        del message
        try:
            pid = clone(CLONE_NEWPID)
            if pid == 0:
                proc = self.proc
                vars(self).clear()
                be_a_box(order, descriptors, proc)
            pidfd = os.pidfd_open(pid)
            self.boxes[pidfd] = (order["box"], pid)
            self.poller.register(pidfd, select.POLLIN)
        except Failed as failed:
            step, layer, number = failed.args
            channel = socket.socket(fileno=os.dup(descriptors[1]))
            send(channel, {"failed": step, "layer": layer, "errno": number}, [])
            channel.close()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def bury(self, pidfd: int) -> None:
        self.poller.unregister(pidfd)
        os.close(pidfd)
        box, pid = self.boxes.pop(pidfd)
        _, status, usage = os.wait4(pid, 0)
        ended = {
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
            "cpu_ms": round((usage.ru_utime + usage.ru_stime) * 1000),
            "max_rss_bytes": usage.ru_maxrss * 1024,
        }
        send(self.control, {"box": box, "ended": ended}, [])


FILTER: "Filter | None" = None


def main() -> None:
    global FILTER
    config = json.loads(sys.argv[1])
    control = socket.socket(fileno=config["control"])
    os.set_inheritable(control.fileno(), False)
    prctl("pidns", PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.clear()  # the hash seed has done its part, and the interpreter itself sets a locale
    tune_malloc()
    clock.prepare()  # first, since what is loaded now takes functions out of `time`
    # Also for all of Python: what the restricted language may import is what programs import. Without it each box takes
    # 39 ms longer (on a busy machine), and a Python program that imports eleven modules 10 ms.
    importlib.import_module("guest.language.restricted").preload()
    chance.prepare()
    # What is alive now is in every box: keep the collector from touching, and so copying, those pages. That saves
    # 4.2 MiB in each box that runs a full collection; the goal for an idle box is 2.
    gc.freeze()
    # Only now: if anything above fails, the host sees the end of *control* and sends nothing.
    send(control, {"ready": True}, [])
    FILTER = Filter(control.recv(1 << 16))
    Zygote(control, config["proc"]).run()


if __name__ == "__main__":
    main()
