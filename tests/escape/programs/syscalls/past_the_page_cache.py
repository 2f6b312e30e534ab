# language: python
# expect: ok
# use: refused
# says: F_SETFL DIRECT EPERM
# why: Reads that go to the host's disk each time, past every account; and flags that reach further than the file.
places = [b"/usr/bin/python3", b"/usr/lib/belljar/guest/agent/loop.py", b"/usr", b"/tmp/mine", b"/dev/zero", b"/dev/null"]
open("/tmp/mine", "w").close()
for path in places:
    for flags in (0o40000, 0o40000 | os.O_CLOEXEC, 0o40000 | os.O_RDWR | os.O_CREAT, 1 << 32 | 0o40000, 0o40000 | os.O_PATH):
        refused(f"openat DIRECT {flags:o} {path}", 257, -100, path, flags, 0o600)
    for flag in (os.O_NOATIME, os.O_ASYNC, os.O_TMPFILE | os.O_RDWR, 0o10000000 << 1, 1 << 31):
        refused(f"openat {flag:o} {path}", 257, -100, path, flag, 0o600)
    refused("open", 2, path, 0o40000)
    refused("creat", 85, path, 0o600)
    file = os.open(path, os.O_RDONLY)
    refused("readahead", 187, file, 0, 4096)
    refused("fadvise64", 221, file, 0, 4096, 3)
    for high in (0, 1 << 32):
        for name, flag in (("DIRECT", 0o40000), ("ASYNC", 0o20000), ("NOATIME", 0o1000000)):
            for others in (0, os.O_RDWR | os.O_APPEND | os.O_NONBLOCK):
                refused(f"F_SETFL {name}", 72, file, 4, high | flag | others)
                refused(f"F_SETFL {name} on the wire", 72, 3, high | 4, flag | others)
refused("openat2", 437, -100, b"/usr", ctypes.create_string_buffer(24), 24)
refused("preadv2", 327, 3, 0, 0, 0, 0, 1)
