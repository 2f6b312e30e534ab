# language: python
# expect: ok
# says: refused
# why: Writable and executable at once, by every way that mmap and mprotect know.
import ctypes, errno, mmap
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
for prot in (7, 6, 7 | 0x01000000, 6 | 0x02000000):
    for flags in (0x22, 0x21, 0x40022):
        if libc.mmap(None, 4096, prot, flags, -1, 0) != ctypes.c_void_p(-1).value:
            escaped("mmap", prot, flags)
page = libc.mmap(None, 4096, 3, 0x22, -1, 0)
for prot in (4, 5, 6, 7, 4 | 0x01000000):
    if libc.mprotect(page, 4096, prot) == 0:
        escaped("mprotect", prot)
    if libc.syscall(ctypes.c_long(329), ctypes.c_void_p(page), ctypes.c_size_t(4096), ctypes.c_long(prot), ctypes.c_long(-1)) == 0:
        escaped("pkey_mprotect", prot)
print("refused")
