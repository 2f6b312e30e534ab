# language: python
# expect: ok
# use: syscall
# says: unshare 0x10000000 EPERM
# why: A namespace of its own makes a program root inside of it, and opens the kernel's least tested doors.
flags = (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
for flag in flags:
    attempt(f"unshare {flag:#x}", 272, flag)
    attempt(f"setns {flag:#x}", 308, 3, flag)
    if flag > 0x80:
        attempt(f"clone {flag:#x}", 56, flag | 17, 0, 0, 0, 0)
        attempt(f"clone {flag:#x} and high bits", 56, (0xFFFF << 32) | flag | 17, 0, 0, 0, 0)
attempt("clone3", 435, ctypes.create_string_buffer(b"\0\0\0\x10" + bytes(84)), 88)
