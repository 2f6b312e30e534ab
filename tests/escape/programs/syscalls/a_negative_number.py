# language: python
# expect: ok error
# use: syscall
# why: A number with the sign bit is none of ours.
print(libc.syscall(ctypes.c_long(-1)), errno.errorcode[ctypes.get_errno()])
