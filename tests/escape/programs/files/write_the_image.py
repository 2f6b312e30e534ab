# language: python
# expect: ok
# use: tries
# says: EACCES
# why: The image serves every box: one that could write it would own the next.
import os
tries(
    lambda: open("/usr/lib/belljar/guest/box/zygote.py", "a"),
    lambda: open("/usr/lib/belljar/guest/agent/loop.py", "r+"),
    lambda: open("/usr/bin/python3", "wb"),
    lambda: open("/evil", "w"),
    lambda: open("/dev/evil", "w"),
    lambda: os.unlink("/usr/lib/belljar/guest/box/boot.py"),
    lambda: os.rename("/usr/lib/belljar/guest/box/boot.py", "/usr/lib/belljar/guest/box/boot.bak"),
    lambda: os.mkdir("/usr/lib/evil"),
    lambda: os.rmdir("/tmp"),
    lambda: os.rename("/tmp", "/pmt"),
    lambda: os.truncate("/usr/lib/belljar/guest/box/boot.py", 0),
    lambda: os.chmod("/usr/bin/python3", 0o4755),
    lambda: os.utime("/usr/bin/python3"),
)
