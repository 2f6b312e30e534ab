"""What can be reached from inside this box? Tries, and prints one line each: `name yes|no`. All should be `no`.

`belljar doctor` runs it in a box. Nothing here is clever: it is what any hostile program would try first. But it looks
for the contents and not for the folder: gVisor's kernel has its own /proc and /sys, with no other process in the one
and nothing in the other. The last line is not an attempt: `kernel: ` and what the kernel says about itself.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import socket
import stat
import struct
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from guest.box.kernel import last_errno, out_buffer, system_call

__all__ = ["main"]

_REACH = {
    "host files": lambda: os.stat("/etc/passwd"),
    "processes": lambda: _some({name for name in os.listdir("/proc") if name.isdigit()} - {str(os.getpid())}),
    "kernel settings": lambda: os.listdir("/sys/kernel"),
    "name servers": lambda: _some(re.findall("(?m)^nameserver", Path("/etc/resolv.conf").read_text())),
    "a shell": lambda: os.stat("/bin/sh"),
    "writing to the image": lambda: open("/usr/lib/belljar/x", "w").close(),
    "network": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).connect(("127.0.0.1", 9)),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close(),
    "vsock": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close(),
    "other programs": lambda: os.execv(sys.executable, [sys.executable, "-c", "0"]),  # noqa: S606
    "root": lambda: os.setuid(0),
    "new namespaces": lambda: _system_call("unshare", 0x10000000),
    "mounting": lambda: _system_call("mount", 0, 0, 0, 0, 0),
    "tracing": lambda: _system_call("ptrace", 0, 0, 0, 0),
    "io_uring": lambda: _system_call("io_uring_setup", 1, 0),
    "bpf": lambda: _system_call("bpf", 0, 0, 0),
    "keyring": lambda: _system_call("keyctl", 0, -3, 0, 0, 0),
    "userfaultfd": lambda: _system_call("userfaultfd", 0),
    "writable code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC | mmap.PROT_READ).close(),
}
# The wire is one socket, or a pipe each way.
_WIRE = 3
_REFUSED = (errno.EPERM, errno.EACCES, errno.ENOENT, errno.ENOSYS, errno.EROFS, errno.ENETUNREACH, errno.EAFNOSUPPORT)


def main() -> None:
    for name, attempt in _REACH.items():
        print(name, "yes" if _reached(attempt) else "no")
    print("environment", "yes" if os.environ.keys() - {"LC_CTYPE"} else "no")
    print("capabilities", "yes" if any(_capabilities()) else "no")
    print("other descriptors", "yes" if any(map(_is_open, range(_wire_end(), 1024))) else "no")
    print("being root", "yes" if 0 in (os.getuid(), os.geteuid(), os.getgid(), os.getegid()) else "no")
    print("being one of many processes", "yes" if os.getpid() != 1 else "no")
    print("kernel:", *(getattr(os.uname(), name) for name in ("sysname", "release", "version")))


def _reached(attempt: Callable[[], object]) -> bool:
    """Anything but a clear refusal counts as reached: a call that fails on its arguments got to the kernel."""
    try:
        attempt()
    except OSError as error:
        return error.errno not in _REFUSED
    return True


def _some(found: Collection[object]) -> None:
    if not found:
        raise OSError(errno.ENOENT, "nothing there")


def _system_call(name: str, *arguments: int) -> None:
    if system_call(name, *arguments) < 0:
        raise OSError(last_errno(), "refused")


def _capabilities() -> tuple[int, ...]:
    """The three capability sets, both halves each."""
    header, sets = struct.pack("=Ii", 0x20080522, 0), out_buffer(24)
    if system_call("capget", header, sets) < 0:
        return ()  # the call itself is not allowed, so nobody can ask; `root` and `mounting` above cover the rest
    return struct.unpack("=6I", sets.raw)


def _wire_end() -> int:
    """The first descriptor that does not belong to the wire."""
    return _WIRE + (2 if stat.S_ISFIFO(os.fstat(_WIRE).st_mode) else 1)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
