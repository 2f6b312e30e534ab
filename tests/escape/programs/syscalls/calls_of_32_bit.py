# language: python
# expect: ok error
# why: int 0x80 has other numbers for the same calls. It needs code of one's own; an instruction of the C library will do.
import ctypes, re
libc = ctypes.CDLL(None)
with open("/usr/lib/libc.so.6", "rb") as file:
    print("int 0x80 in the C library:", len(re.findall(rb"\xcd\x80", file.read())))
