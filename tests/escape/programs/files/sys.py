# language: python
# expect: ok
# use: tries
# says: ENOENT
# why: No /sys: no devices, no control groups.
import os
tries(lambda: os.listdir("/sys"), lambda: os.stat("/sys/fs/cgroup"), lambda: os.stat("/sys/kernel/vmcoreinfo"))
