import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def refused(name, number, *arguments):
    """The filter's own answer, EPERM: anything else has reached the kernel, whatever that said."""
    ctypes.set_errno(0)
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result, error = libc.syscall(ctypes.c_long(number), *words), ctypes.get_errno()
    print(name, errno.errorcode.get(error, "none"))
    if result != -1 or error != errno.EPERM:
        escaped(name, result, errno.errorcode.get(error))
