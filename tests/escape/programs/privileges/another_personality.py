# language: python
# expect: ok
# use: syscall
# says: personality EPERM
# why: READ_IMPLIES_EXEC makes data code; ADDR_NO_RANDOMIZE makes addresses known.
for wanted in (0x0400000, 0x0040000, 8, 0xFFFFFFFF):
    attempt("personality", 135, wanted)
attempt("modify_ldt", 154, 1, ctypes.create_string_buffer(16), 16)
attempt("set_thread_area", 205, ctypes.create_string_buffer(16))
attempt("iopl", 172, 3)
attempt("ioperm", 173, 0, 1024, 1)
attempt("vm86 by number", 113, 0, 0)
