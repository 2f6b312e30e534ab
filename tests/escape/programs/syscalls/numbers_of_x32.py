# language: python
# expect: error
# use: syscall
# says: signal 31
# why: The x32 numbers name the same calls again; whoever uses one is hostile.
# docker: says exit code 159 ; why signals: the daemon tells a signal as 128 more
# gvisor: expect timeout ; limit cell_wall_ms ; hasty true ; why threads: its kernel ends the thread that called, and the box at the deadline
libc.syscall(ctypes.c_long(0x40000000 | 39))
escaped("x32")
