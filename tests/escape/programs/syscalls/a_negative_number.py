# language: python
# expect: error
# use: syscall
# says: signal 31
# why: A number with the sign bit is none of ours.
# containers: says exit code 159 ; why signals: the daemon tells a signal as 128 more
libc.syscall(ctypes.c_long(-1))
escaped("-1")
