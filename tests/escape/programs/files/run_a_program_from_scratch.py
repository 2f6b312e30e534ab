# language: python
# expect: ok
# use: tries
# says: EPERM
# why: Nothing that the program wrote may be run or mapped as code.
# gvisor: says EPERM ; reaches 1 ; why noexec: it is asked for when a program is started, not when code is mapped
import mmap, os
with open("/tmp/code", "wb") as file:
    file.write(b"\xc3" * 4096)
handle = os.open("/tmp/code", os.O_RDONLY)
tries(
    lambda: mmap.mmap(handle, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    lambda: os.execv("/tmp/code", ["code"]),
)
