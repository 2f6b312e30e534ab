# language: python
# expect: ok
# use: syscall
# says: capset EPERM
# why: A capability in any set could be raised.
header = ctypes.create_string_buffer(b"\x22\x05\x08\x20\0\0\0\0")
attempt("capset", 126, header, ctypes.create_string_buffer(b"\xff" * 24))
attempt("setfsuid", 122, 0)
attempt("setfsgid", 123, 0)
