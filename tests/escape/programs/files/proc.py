# language: python
# expect: ok
# use: tries
# says: ENOENT
# why: No /proc: no processes, no mounts, no memory, no settings.
# gvisor: says ENOENT ; reaches 5 ; why proc: the box's own processes, under a kernel of its own
paths = "/proc/self/maps /proc/1/root /proc/self/mounts /proc/cpuinfo /proc/sys/kernel/core_pattern /proc/self/fd/3".split()
import os
tries(*(lambda path=path: os.stat(path) for path in paths))
