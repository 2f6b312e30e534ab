# language: python
# expect: ok
# use: tries
# says: EPERM
# why: Being nobody is for ever.
import os
tries(
    lambda: os.setuid(0), lambda: os.seteuid(0), lambda: os.setreuid(0, 0), lambda: os.setresuid(0, 0, 0),
    lambda: os.setgid(0), lambda: os.setegid(0), lambda: os.setresgid(0, 0, 0), lambda: os.setgroups([0]),
    lambda: os.setgroups([]), lambda: os.initgroups("root", 0), lambda: os.setuid(65534),
)
print(os.getuid(), os.geteuid(), os.getgid(), os.getegid())
