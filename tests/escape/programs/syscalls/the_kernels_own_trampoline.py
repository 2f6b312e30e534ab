# language: python
# expect: ok error
# use: syscall
# why: A newer kernel lets uretprobe past every filter; called from anywhere else it ends the caller.
print(libc.syscall(ctypes.c_long(335)))
