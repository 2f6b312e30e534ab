# language: python
# expect: ok
# use: tries
# says: EROFS
# why: The devices are the host's own inodes: a time set on one could be read in every other box.
# gvisor: says EPERM ; reaches 3 ; why devices: its own kernel's, which no other box has
import os
for name in ("null", "zero", "urandom"):
    tries(lambda: os.utime(f"/dev/{name}"), lambda: os.chmod(f"/dev/{name}", 0o666))
