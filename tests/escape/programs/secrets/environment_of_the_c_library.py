# language: python
# expect: ok
# says: entries
# why: os.environ is a copy; the C library has the original.
import ctypes
environ = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
entries = []
while environ and environ[len(entries)]:
    entries.append(environ[len(entries)])
print("entries", entries)
