# says: shmget EPERM
# why: Shared memory, queues, semaphores and keys that are found by a number or a name known to both.
import ctypes, errno

libc = ctypes.CDLL(None, use_errno=True)
held = ctypes.create_string_buffer(b"word", 64)
made = [
    ("shmget", 29, 0xBE11, 4096, 0o1666),
    ("msgget", 68, 0xBE11, 0o1666),
    ("semget", 64, 0xBE11, 1, 0o1666),
    ("mq_open", 240, b"belljar", 0o102, 0o666, None),
    *((f"add_key {ring}", 248, b"user", b"belljar", b"word", 4, ring) for ring in (-1, -3, -4, -5)),
]
found = [
    ("shmget", 29, 0xBE11, 4096, 0),
    ("msgget", 68, 0xBE11, 0),
    ("semget", 64, 0xBE11, 1, 0),
    ("mq_open", 240, b"belljar", 0, 0, None),
    ("request_key", 249, b"user", b"belljar", None, 0),
    *((f"keyctl search {ring}", 250, 10, ring, b"user", b"belljar", 0) for ring in (-1, -3, -4, -5)),
    ("keyctl join", 250, 1, b"belljar"),
    ("shmat", 30, 0, None, 0),
    ("msgrcv", 70, 0, held, 32, 0, 0o4000),
]


def attempts(calls):
    for name, number, *arguments in calls:
        ctypes.set_errno(0)
        result = libc.syscall(ctypes.c_long(number), *arguments)
        print(name, errno.errorcode.get(ctypes.get_errno()))
        if result != -1:
            escaped(name, result)


#%% make
attempts(made)
meet()
meet()
#%% find
meet()
attempts(found)
meet()
