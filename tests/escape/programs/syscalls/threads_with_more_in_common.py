# language: python
# expect: ok
# use: refused
# says: clone 0x2000 EPERM
# why: A thread and a fork have each one set of flags; any other shares, traces or separates what nobody needs.
thread, fork = 0x3D0F00, 0x01200011
for flags in (0, 17, 0x100, 0x4000, 0x4111, 0x1000, 0x50F00, 0x7D0F00):
    refused(f"clone of {flags:#x}", 56, flags, 0, 0, 0, 0)
for bit in range(64):
    for usual in (thread, fork):
        refused(f"clone {1 << bit:#x}", 56, ctypes.c_long((usual ^ 1 << bit) - (1 << 64 if bit == 63 else 0)), 0, 0, 0, 0)
refused("fork", 57)
refused("vfork", 58)
