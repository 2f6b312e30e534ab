# language: python
# expect: ok
# says: refused
# why: A shared page seen twice, once writable and once executable, is code of one's own.
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
failed = ctypes.c_void_p(-1).value
code = libc.mmap(None, 4096, 5, 0x21, -1, 0)
view = failed if code == failed else libc.mremap(code, 0, 4096, 1)
if view == failed or libc.mprotect(view, 4096, 3) != 0:
    print("refused")
else:
    ctypes.memmove(view, b"\xb8\x2a\0\0\0\xc3", 6)
    escaped(ctypes.CFUNCTYPE(ctypes.c_int)(code)())
