# language: python
# expect: ok
# use: syscall
# says: pidfd_open EPERM
# why: A pidfd steals descriptors and sends signals.
attempt("pidfd_open", 434, 1, 0)
attempt("pidfd_getfd", 438, 3, 3, 0)
attempt("pidfd_send_signal", 424, 3, 9, 0, 0)
attempt("process_madvise", 440, 3, 0, 0, 0, 0)
attempt("process_mrelease", 448, 3, 0)
attempt("kcmp", 312, 1, 1, 0, 0, 0)
