# language: python
# expect: ok
# use: syscall
# says: prctl 38 EPERM
# why: prctl undoes no_new_privs, dumpable, securebits, seccomp, ambient capabilities and the parent-death signal.
for option in (1, 4, 8, 15, 21, 22, 23, 24, 28, 35, 36, 38, 40, 47, 52, 53, 59, 0x59616D61, 0x53564D41):
    attempt(f"prctl {option}", 157, option, 1, 0, 0, 0)
attempt("seccomp", 317, 0, 0, 0)
attempt("seccomp filter", 317, 1, 0, ctypes.create_string_buffer(64))
attempt("arch_prctl", 158, 0x1002, 0)
