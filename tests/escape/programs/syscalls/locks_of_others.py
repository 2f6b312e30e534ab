# language: python
# expect: ok
# use: refused
# says: WAKE EPERM
# why: Locks that reach beyond a process, inherit priorities or move waiters; the kernel's most difficult ones.
word = ctypes.c_uint32(7)
place, brief = ctypes.c_void_p(ctypes.addressof(word)), (ctypes.c_long * 2)(0, 1)
names = ("WAIT", "WAKE", "FD", "REQUEUE", "CMP_REQUEUE", "WAKE_OP", "LOCK_PI", "UNLOCK_PI", "TRYLOCK_PI", "WAIT_BITSET",
         "WAKE_BITSET", "WAIT_REQUEUE_PI", "CMP_REQUEUE_PI", "LOCK_PI2")
for number, name in enumerate(names):
    for flags in (0, 0x80, 0x100, 0x180):
        operation = number | flags
        if operation in (0x80, 0x81, 0x89, 0x189, 0x109):
            continue
        for high in (0, 1 << 32):
            refused(f"futex {name} {flags:#x}" if flags else name, 202, place, high | operation, 7, brief, place, -1)
# What joins a thread is told to look again, and nothing is waited for or woken.
if libc.syscall(202, place, 0x109, 7, None, None, -1) != -1 or ctypes.get_errno() != errno.EAGAIN:
    escaped("waited")
refused("set_robust_list", 273, ctypes.create_string_buffer(24), 24)
refused("get_robust_list", 274, 0, ctypes.create_string_buffer(8), ctypes.create_string_buffer(8))
refused("futex_waitv", 449, ctypes.create_string_buffer(24), 1, 0, 0, 0)
refused("futex_wake", 454, place, -1, 1, 0)
refused("futex_wait", 455, place, 7, -1, 0, 0, 0)
refused("futex_requeue", 456, place, 0, 1, 1)
refused("set_tid_address", 218, place)
