"""System calls for which Python has no function, made through ctypes, which else only `agent.clock` uses here.

The numbers are those of x86_64, like the system call filter's: another machine has no filter, and so no boxes.
"""

from __future__ import annotations

import ctypes
import signal
import struct

__all__ = [
    "Failed",
    "Filter",
    "check",
    "clone",
    "last_errno",
    "libc",
    "mount",
    "out_buffer",
    "prctl",
    "system_call",
]

SYSCALLS = {
    "clone": 56,
    "ptrace": 101,
    "capget": 125,
    "capset": 126,
    "mount": 165,
    "keyctl": 250,
    "unshare": 272,
    "bpf": 321,
    "userfaultfd": 323,
    "io_uring_setup": 425,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2

libc = ctypes.CDLL(None, use_errno=True)
# Keeps the interpreter lock across the call: in a clone no other thread could release it.
_locked = ctypes.PyDLL(None, use_errno=True)


class Failed(Exception):
    """A step failed: (step, layer, errno)."""


def last_errno() -> int:
    return ctypes.get_errno()


def check(step: str, layer: str, result: int) -> int:
    if result < 0:
        raise Failed(step, layer, ctypes.get_errno())
    return result


def out_buffer(size_bytes: int) -> ctypes.Array[ctypes.c_char]:
    """A buffer into which a call writes its answer."""
    return ctypes.create_string_buffer(size_bytes)


def system_call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """The call's result, negative if it failed (`last_errno`). Numbers are passed as longs, which fill a register."""
    words = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return int(libc.syscall(SYSCALLS[name], *words))


def prctl(layer: str, option: int, *arguments: int) -> None:
    words = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    check(f"prctl {option}", layer, libc.prctl(option, *words))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    texts = [text.encode() or None for text in (source, target, kind)]
    check(f"mount {target}", "rootfs", libc.mount(*texts, ctypes.c_ulong(flags), data.encode() or None))


def clone(flags: int) -> int:
    """fork() into the fresh namespaces of `flags`: 0 in the child, its pid in the parent.

    It is the raw system call, because no library call makes a namespace with it. The process has one thread, and
    Python's own preparations around a fork are called by hand (they also reseed `random`).
    """
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    pid = _locked.syscall(SYSCALLS["clone"], ctypes.c_ulong(flags | signal.SIGCHLD), None, None, None, None)
    if pid == 0:
        api.PyOS_AfterFork_Child()
    else:
        number = ctypes.get_errno()
        api.PyOS_AfterFork_Parent()
        if pid < 0:
            raise Failed("clone", "pidns", number)
    return int(pid)


class Filter:
    """The seccomp program that the host compiled, kept as a `struct sock_fprog` for the one call that loads it."""

    def __init__(self, program: bytes) -> None:
        self._code = ctypes.create_string_buffer(program, len(program))
        packed = struct.pack("@HP", len(program) // 8, ctypes.addressof(self._code))
        self._program = ctypes.create_string_buffer(packed)

    def load(self) -> None:
        prctl("seccomp", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(self._program))
