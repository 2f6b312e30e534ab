# language: python
# expect: ok
# use: syscall
# says: prlimit64 EPERM
# why: Reading one's own limits is what the C library needs; setting needs a pointer, and its high half counts too.
new = ctypes.create_string_buffer(b"\xff" * 16)
attempt("prlimit64", 302, 0, 7, new, 0)
attempt("prlimit64 of the zygote", 302, {{zygote}}, 7, new, 0)
attempt("prlimit64 by the high half", 302, 0, 7, ctypes.c_long(0x7F0000000000), 0)
attempt("setrlimit", 160, 7, new)
