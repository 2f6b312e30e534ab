# language: python
# expect: ok
# use: tries
# says: EPERM
# why: The classic: chroot below, then walk up.
import os
os.mkdir("/tmp/below")
here = os.open("/", os.O_PATH)
tries(lambda: os.chroot("/tmp/below"), lambda: os.fchdir(here))
os.chdir("/..")
print(os.getcwd())
if os.getcwd() != "/":
    escaped(os.getcwd())
