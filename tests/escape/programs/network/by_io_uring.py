# language: python
# expect: ok
# use: syscall
# says: io_uring_setup EPERM
# why: io_uring makes system calls that no filter sees.
attempt("io_uring_setup", 425, 8, ctypes.create_string_buffer(256))
attempt("io_uring_enter", 426, 3, 1, 1, 0, 0, 0)
attempt("io_uring_register", 427, 3, 0, 0, 0)
