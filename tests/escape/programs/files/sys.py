# language: python
# expect: ok
# use: tries
# says: ENOENT
# why: Nothing in /sys: no devices, no control groups.
import os
tries(lambda: os.stat("/sys/class"), lambda: os.stat("/sys/fs/cgroup"), lambda: os.stat("/sys/kernel/vmcoreinfo"))
