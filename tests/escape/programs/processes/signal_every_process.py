# language: python
# expect: ok
# says: seen [1]
# why: Signal 0 tells who exists: only this box.
# A thread's number is no process: the box's own are left out.
import ctypes, os
libc = ctypes.CDLL(None)
TGKILL = {"x86_64": 234, "aarch64": 131}[os.uname().machine]
seen = []
for pid in [*range(1, 10000), {{host_pid}}, {{zygote}}]:
    try:
        os.kill(pid, 0)
        if pid == 1 or libc.syscall(TGKILL, 1, pid, 0):
            seen.append(pid)
    except ProcessLookupError:
        pass
print("seen", seen)
