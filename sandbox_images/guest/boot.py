"""Where a box begins that starts an interpreter of its own: `python3 -I -S -B boot.py`, as the process of a container.

The jail's boxes are clones of a process that has the agent loaded already, and begin in the zygote instead.

The container's attached standard input and output become the wire. Before the first frame one message goes each way,
`u32 length, JSON`: in, what the container runtime cannot set (limits, and the system call filter, in base64); out, the
layers that hold from inside, or the step that failed. Up to the moment the agent starts, no guest code has run, so what
is said here is ours. In this order, because each step takes away what only the ones before it need:

 1. look at what the runtime has made of us: identity, capabilities, namespaces' numbers, the kernel's name;
 2. a user namespace in which only nobody exists; where the daemon maps users itself, that is so already;
 3. Landlock's rules, made while their places can still be opened;
 4. resource limits that count per user: now they count in the new user namespace;
 5. no capability in any set, not dumpable, Landlock;
 6. for the warm pool, load what programs commonly import;
 7. say which layers hold; close every descriptor but the wire; the system call filter; the agent.

Isolated mode puts neither this folder nor the working directory on the path; this adds the one folder that holds the
guest package, read-only like the rest of the image.
"""

import base64
import ctypes
import importlib
import json
import os
import struct
import sys

sys.path.insert(0, "/usr/lib/belljar")

from guest import agent
from guest.enclosure import (
    NOBODY,
    Failed,
    Filter,
    be_nobody,
    check,
    close_all_but,
    drop_capabilities,
    landlock_ruleset,
    libc,
    restrict,
    set_limits,
    write_id_maps,
)

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
# Read-only, no set-id, no devices, no programs.
MS_EMPTY = 1 | 2 | 4 | 8
PR_SET_DUMPABLE = 4
PR_GET_NO_NEW_PRIVS = 39
LENGTH = struct.Struct("!I")
WRITING, READING = 3, 4


def receive() -> "dict":  # type: ignore[type-arg]
    (size,) = LENGTH.unpack(read(LENGTH.size))
    return dict(json.loads(read(size)))


def read(size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            os._exit(0)  # the host has gone: nobody needs this box
        data += piece
    return data


def send(message: object) -> None:
    data = json.dumps(message).encode()
    data = LENGTH.pack(len(data)) + data
    while data:
        data = data[os.write(1, data) :]


def status() -> "dict[str, str]":
    """What the kernel says of this process."""
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
    }


def one_user_alone(proc: int, hide: "list[str]") -> bool:
    """Whether no other id than nobody's exists from here on. Empty folders cover those of `hide`."""
    # A process that may not be looked at may not write its own maps either.
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    if libc.unshare(CLONE_NEWUSER | (CLONE_NEWNS if hide else 0)) < 0:
        return False
    write_id_maps(proc, NOBODY, NOBODY)
    be_nobody()
    for place in hide:
        data = b"size=4k,nr_inodes=1,mode=0555"
        check(f"hide {place}", "rootfs", libc.mount(b"none", place.encode(), b"tmpfs", ctypes.c_ulong(MS_EMPTY), data))
    return True


def close_in(order: "dict") -> "list[str]":  # type: ignore[type-arg]
    layers = ["rlimits", "caps", "no_new_privs"]
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    if one_user_alone(proc, order["hide"]):
        layers.append("userns")
    os.close(proc)
    os.chdir("/tmp")  # noqa: S108
    ruleset = landlock_ruleset(["/usr", "/dev"], ["/dev"], "/tmp")  # noqa: S108
    set_limits(order["rlimits"])
    drop_capabilities(securebits=order["securebits"])
    if ruleset is not None:
        restrict(ruleset)
        os.close(ruleset)
        layers.append("landlock")
    return layers


def main() -> None:
    try:
        os.environ.clear()  # the daemon adds a path and a host name
        before = facts()
        order = receive()
        layers = close_in(order)
        program = base64.b64decode(order["filter"])
        if order["preload"]:
            importlib.import_module("guest.preload").preload()
    except Failed as failed:
        step, layer, number = failed.args
        send({"failed": step, "layer": layer, "errno": number})
        return
    except OSError as error:
        send({"failed": str(error), "layer": "rootfs", "errno": error.errno})
        return
    if program:
        layers.append("seccomp")
    send({"layers": layers, "facts": before})
    close_all_but({1: WRITING, 0: READING})
    if program:
        Filter(program).load()
    agent.main(READING, WRITING)


if __name__ == "__main__":
    main()
