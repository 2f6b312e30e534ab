# language: python
# expect: ok
# use: syscall
# says: setpriority EPERM
# why: Neither the neighbours' share of the machine nor one's own.
attempt("setpriority", 141, 0, 0, -20)
attempt("sched_setscheduler", 144, 0, 1, ctypes.create_string_buffer(b"\1\0\0\0"))
attempt("sched_setaffinity", 203, 0, 8, ctypes.create_string_buffer(b"\377" * 8))
attempt("sched_setattr", 314, 0, ctypes.create_string_buffer(64), 0)
attempt("ioprio_set", 251, 1, 0, 0)
attempt("mlockall", 151, 3)
attempt("setpgid", 109, 0, 0)
attempt("setsid", 112)
