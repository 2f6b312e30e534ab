# language: python
# expect: error
# use: syscall
# says: signal 31
# why: A number with the sign bit is none of ours.
# docker: says exit code 159 ; why signals: the daemon tells a signal as 128 more
# gvisor: expect timeout ; limit cell_wall_ms ; hasty true ; why threads: its kernel ends the thread that called, and the box at the deadline
libc.syscall(ctypes.c_long(-1))
escaped("-1")
