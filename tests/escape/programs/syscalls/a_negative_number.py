# language: python
# expect: error
# use: syscall
# says: signal 31
# why: A number with the sign bit is none of ours.
libc.syscall(ctypes.c_long(-1))
escaped("-1")
