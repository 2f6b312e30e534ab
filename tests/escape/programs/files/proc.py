# language: python
# expect: ok
# use: tries
# says: ENOENT
# why: No /proc: no processes, no mounts, no memory, no settings.
paths = "/proc /proc/self/maps /proc/1/root /proc/self/mounts /proc/cpuinfo /proc/sys/kernel/core_pattern /proc/self/fd/3".split()
import os
tries(*(lambda path=path: os.stat(path) for path in paths))
