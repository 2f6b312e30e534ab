# language: python
# expect: ok
# use: tries
# says: EPERM
# why: A device node is a door to the kernel.
import os, stat
tries(lambda: os.mknod("/tmp/mem", 0o600 | stat.S_IFCHR, os.makedev(1, 1)), lambda: os.mkfifo("/tmp/pipe"))
