# language: python
# expect: ok
# use: syscall
# says: refused
# why: Whatever is not on the list answers EPERM, numbers that no kernel has yet included.
allowed = {{allowed}}
# The kernel takes these two before any filter is asked; they are for its own trampoline and end whoever else calls them.
trampoline = (335, 336)
refused = 0
for number in range(0, 1024):
    if number in allowed or number in trampoline:
        continue
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(0)] * 6)
    if result != -1 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP):
        escaped(number, result, ctypes.get_errno())
    refused += 1
print("refused", refused > 300)
