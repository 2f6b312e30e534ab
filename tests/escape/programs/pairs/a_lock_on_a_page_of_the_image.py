# says: Operation not permitted
# why: A page of the image is one page of the host's memory in every box, and a shared lock lies where its page lies.
import ctypes, os, time

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
FUTEX, SHARED, PRIVATE = 202, 1, 2
pages = []
for path in ("/usr/lib/belljar/guest/agent/loop.py", "/usr/bin/python3"):
    file = os.open(path, os.O_RDONLY)
    pages += [ctypes.c_void_p(libc.mmap(None, 4096, 1, kind, file, 0)) for kind in (SHARED, PRIVATE)]


def futex(page, operation, value, more=None):
    result = libc.syscall(FUTEX, page, operation, value, more, page, -1)
    return result, os.strerror(ctypes.get_errno()) if result < 0 else ""


def until_refused(attempt, seconds=3):
    """Again and again for a while, unless the system does not even try."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        result, why = attempt()
        if why in ("Operation not permitted", "Resource temporarily unavailable"):
            return print(why)
        yield result
        time.sleep(0.001)


#%% wait
for page in pages:
    value = ctypes.c_uint32.from_address(page.value)
    brief = (ctypes.c_long * 2)(0, 200_000_000)
    for operation in (0, 9):  # WAIT, WAIT_BITSET
        meet()
        for result in until_refused(lambda: futex(page, operation, value, brief)):
            if result == 0:
                escaped("woken by", operation)
                break
#%% wake
word = ctypes.c_uint32(1)
for page in pages:
    for wait in (0, 9):
        meet()
        for operation in (1, 10, 3, 4, 5):  # WAKE, WAKE_BITSET, REQUEUE, CMP_REQUEUE, WAKE_OP
            for result in until_refused(lambda: futex(page, operation, 1), 0.6):
                if result > 0:
                    escaped("woke", result, "by", operation)
                    break
