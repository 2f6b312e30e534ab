# language: python
# expect: ok
# use: refused
# says: pipe2 NOTIFICATION EPERM
# why: The other arguments of calls that are needed: each has those of which a program is known, and no more.
held = ctypes.create_string_buffer(256)
file = os.open("/tmp/mine", os.O_RDWR | os.O_CREAT)
for name, flags in (("NOTIFICATION", 0o200), ("DIRECT", 0o40000), ("DIRECT and more", 0o2044000)):
    refused(f"pipe2 {name}", 293, held, flags)
for whence in (3, 4, 5):
    refused(f"lseek {whence}", 8, file, 0, whence)
for flags in (0x200, 0x400, 0x800, 0x2000, 0x1100 | 0x4000):
    refused(f"newfstatat {flags:#x}", 262, -100, b"/usr", held, flags)
for flags in (0x100, 0x1000, 1):
    refused(f"utimensat {flags:#x}", 280, -100, b"/tmp/mine", None, flags)
for flags in (2, 4, 5):
    refused(f"getrandom {flags}", 318, held, 8, flags)
for options in (2, 8, 0x01000000, 0x20000000, 0x40000000, 0x80000000):
    refused(f"wait4 {options:#x}", 61, -1, None, options, None)
for clock in (2, 3, 4, 7, 8, 9, 11, -6, -5):
    refused(f"clock_nanosleep {clock}", 230, clock, 0, (ctypes.c_long * 2)(0, 1), None)
for pid in (1, 2, os.getpid(), 1 << 32):
    refused(f"prlimit64 of {pid}", 302, pid, 7, None, held)
    refused(f"sched_getaffinity of {pid}", 204, pid, 128, held)
refused("rseq taken back", 334, held, 32, 1, 0x53053053)
refused("epoll_create1", 291, 0)
refused("epoll_create1 1", 291, 0x80001)
for command in (0, 5, 8, 9, 10, 11, 15, 16, 36, 37, 38, 1024, 1025, 1026, 1031, 1032, 1033, 1034, 1036, 1038):
    refused(f"fcntl {command}", 72, file, command, 0)
for request in (0x5401, 0x5413, 0x541B, 0x5452, 0x5460, 0x8901, 0x80086601, 0x40086602, 0xC020660B, 0x1260, 2):
    refused(f"ioctl {request:#x}", 16, file, request, held)
