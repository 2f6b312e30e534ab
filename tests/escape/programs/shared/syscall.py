import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, number, *arguments):
    """EPERM and ENOSYS are refusals; anything else is contact with the kernel."""
    ctypes.set_errno(0)
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = libc.syscall(ctypes.c_long(number), *words)
    error = errno.errorcode.get(ctypes.get_errno(), "none")
    print(name, error)
    if result != -1 or error not in ("EPERM", "ENOSYS"):
        escaped(name, result, error)
