"""Where a box with its own interpreter starts: `python3 -s -P -S -B boot.py`, as the process of a container.

The jail's boxes are clones of a process that has already loaded the agent, and start in the zygote instead.

The container's attached standard input and output become the wire. Before the first frame one message goes each way,
`u32 length, JSON`: in, what the container runtime cannot set (limits, and the system call filter, in base64); out, the
layers that hold from inside, or the step that failed. No guest code runs before the agent starts, so what is sent here
is ours. In this order, because each step takes away what only the earlier ones need:

 1. record what the runtime has made of us: identity, capabilities, namespaces' numbers, the kernel's name;
 2. a user namespace in which only nobody exists. Where the host allows none, two things are missing: covers over
    folders, and the right to lock securebits, which would lock nothing that an empty bounding set leaves open;
 3. Landlock's rules, made while their places can still be opened;
 4. resource limits. What counts per user counts in the new user namespace; without one it would count all boxes;
 5. no capability in any set, not dumpable, Landlock;
 6. for the warm pool, load what programs commonly import;
 7. close every descriptor but the wire; the system call filter; report which layers were seen to hold from 4 on
    (`guest.box.measure`); a thread that waits for the end of the wire; the agent.

These options put neither this folder nor the working directory on the path; this adds the one folder that holds the
guest package, read-only like the rest of the image. The interpreter reads one variable, the hash seed, and the host
compares what there was for it to read.
"""

import _thread
import base64
import importlib
import json
import os
import select
import struct
import sys

sys.path.insert(0, "/usr/lib/belljar")

from guest.agent import clock
from guest.agent import loop as agent
from guest.box.enclosure import (
    NOBODY,
    be_nobody,
    close_all_but,
    drop_capabilities,
    landlock_ruleset,
    restrict,
    set_limits,
    tune_malloc,
    write_id_maps,
)
from guest.box.kernel import Failed, Filter, libc, mount
from guest.box.measure import Measure

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
# Read-only, no set-id, no devices, no programs.
MS_EMPTY = 1 | 2 | 4 | 8
MS_RDONLY, MS_NOSUID, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 8, 32, 4096
DEVICES = ("null", "zero", "urandom")
PR_SET_DUMPABLE = 4
PR_GET_NO_NEW_PRIVS = 39
LENGTH = struct.Struct("!I")
WATCH_STACK_BYTES = 256 * 1024
WRITING, READING = 3, 4


def receive() -> "dict":  # type: ignore[type-arg]
    (size,) = LENGTH.unpack(read(LENGTH.size))
    return dict(json.loads(read(size)))


def read(size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            os._exit(0)  # the host is gone: nobody needs this box
        data += piece
    return data


def send(message: object, to: int = 1) -> None:
    data = json.dumps(message).encode()
    data = LENGTH.pack(len(data)) + data
    while data:
        data = data[os.write(to, data) :]


def status() -> "dict[str, str]":
    """What the kernel says about this process."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)


def facts() -> "dict[str, object]":
    """What the host compares with what it ordered."""
    said = status()
    return {
        "kernel": f"{os.uname().sysname} {os.uname().release}",
        "version": open("/proc/version", encoding="ascii").read().strip(),
        "pid": os.getpid(),
        "uids": [*os.getresuid(), *os.getresgid()],
        "capabilities": [said[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")],
        "no_new_privs": libc.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
        "seccomp": said.get("Seccomp", ""),
        "python": {name: value for name, value in os.environ.items() if name.startswith("PYTHON")},
    }


def one_user_alone(proc: int, hide: "list[str]") -> bool:
    """Whether only nobody's id exists from here on, whoever that is outside.

    Empty folders cover those in `hide`.
    """
    outside = os.getuid()  # the host's number for this box, and for its group; inside, no id is mapped yet
    # An undumpable process may not write its own maps.
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    if libc.unshare(CLONE_NEWUSER | (CLONE_NEWNS if hide else 0)) < 0:
        return False
    write_id_maps(proc, NOBODY, outside)
    be_nobody()
    if hide:
        few_devices()
    for place in hide:
        mount("none", place, "tmpfs", MS_EMPTY, "size=4k,nr_inodes=1,mode=0555")
    return True


def few_devices() -> None:
    """Cover /dev with one that has the jail's three devices, read-only: no terminals can be made.

    Writing to a device still works; its times and modes do not change. Where the daemon maps users, its devices are the
    host's own, and what is set on one could be read in every other box.
    """
    places = {name: os.open(f"/dev/{name}", os.O_PATH) for name in DEVICES}
    mount("none", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "size=4k,nr_inodes=4,mode=0755")
    for name, place in places.items():
        os.close(os.open(f"/dev/{name}", os.O_CREAT | os.O_WRONLY))
        mount(f"/proc/self/fd/{place}", f"/dev/{name}", "", MS_BIND)
        mount("", f"/dev/{name}", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC)
        os.close(place)
    mount("", "/dev", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC)


def close_in(order: "dict") -> Measure:  # type: ignore[type-arg]
    limits = dict(order["rlimits"])
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    measure = Measure(proc, ["userns"])
    alone = one_user_alone(proc, order["hide"])
    if not alone:
        limits.pop("NPROC", None)  # the pids group limits tasks
    os.chdir("/tmp")  # noqa: S108
    ruleset = landlock_ruleset(["/usr", "/dev"], ["/dev"], "/tmp")  # noqa: S108
    set_limits(limits)
    locked = alone and order["securebits"]
    drop_capabilities(securebits=locked)
    covered = bool(alone and order["hide"])
    measure.before_landlock(order["measure"] | {"limits": limits, "locked": locked, "alone": covered, "mounts": None})
    os.close(proc)
    if ruleset is not None:
        restrict(ruleset)
        os.close(ruleset)
    measure.before_filter()
    return measure


def watch(wire: int) -> None:
    """Start a thread that ends the box when the wire ends.

    Nothing else would end the container if the host is killed: the agent reads only when it waits for something.
    """
    _thread.stack_size(WATCH_STACK_BYTES)
    _thread.start_new_thread(end_with, (wire,))
    _thread.stack_size(0)


def end_with(wire: int) -> None:
    hung_up = select.poll()
    hung_up.register(wire, 0)
    hung_up.poll()
    os._exit(0)


def main() -> None:
    try:
        before = facts()
        os.environ.clear()  # the hash seed has done its part; the daemon adds a path and a host name
        order = receive()
        measure = close_in(order)
        program = base64.b64decode(order["filter"])
        clock.prepare()  # first, since what is loaded now takes functions out of `time`
        # Takes 15 ms for the restricted language; the goal for the first result of a box made ahead is 2.
        if order["preload"]:
            importlib.import_module("guest.language.restricted").preload()
    except Failed as failed:
        step, layer, number = failed.args
        send({"failed": step, "layer": layer, "errno": number})
        return
    except OSError as error:
        send({"failed": str(error), "layer": "rootfs", "errno": error.errno})
        return
    close_all_but({1: WRITING, 0: READING})
    Filter(program).load()
    send({"layers": measure.behind_filter(), "facts": before}, WRITING)
    # The program can walk the frames below its own.
    del order, before, measure, program
    tune_malloc()
    watch(READING)
    agent.main(READING, WRITING)


if __name__ == "__main__":
    main()
