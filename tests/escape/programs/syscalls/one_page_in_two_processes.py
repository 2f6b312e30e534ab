# language: python
# expect: ok
# says: refused
# why: A shared page that is executable here and writable in a child is code of one's own.
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
for flags in (0x21, 0x23, 0x31):
    code = libc.mmap(None, 4096, 5, flags, -1, 0)
    if code == ctypes.c_void_p(-1).value:
        print("refused")
        continue
    if os.fork() == 0:
        if libc.mprotect(code, 4096, 3) == 0:
            ctypes.memmove(code, b"\xb8\x2a\0\0\0\xc3", 6)
        os._exit(0)
    os.wait()
    escaped(ctypes.string_at(code, 6))
