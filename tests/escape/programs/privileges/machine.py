# language: python
# expect: ok
# use: syscall
# says: reboot EPERM
# why: Calls that are the administrator's.
attempt("reboot", 169, 0xFEE1DEAD, 672274793, 0x1234567, 0)
attempt("kexec_load", 246, 0, 0, 0, 0)
attempt("kexec_file_load", 320, 3, 3, 0, 0, 0)
attempt("init_module", 175, b"", 0, b"")
attempt("finit_module", 313, 3, b"", 0)
attempt("delete_module", 176, b"x", 0)
attempt("swapon", 167, b"/tmp/x", 0)
attempt("swapoff", 168, b"/tmp/x")
attempt("acct", 163, 0)
attempt("syslog", 103, 3, ctypes.create_string_buffer(4096), 4096)
attempt("quotactl", 179, 0x800002, 0, 0, 0)
attempt("settimeofday", 164, ctypes.create_string_buffer(16), 0)
attempt("clock_settime", 227, 0, ctypes.create_string_buffer(16))
attempt("adjtimex", 159, ctypes.create_string_buffer(256))
attempt("sethostname", 170, b"x", 1)
attempt("setdomainname", 171, b"x", 1)
attempt("vhangup", 153)
attempt("lookup_dcookie", 212, 0, 0, 0)
