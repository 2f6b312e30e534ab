# language: python
# expect: ok
# use: syscall
# says: ptrace EPERM
# why: Tracing a process is owning it.
for request in (0, 16, 0x4206):
    for pid in (0, 1, {{zygote}}, {{host_pid}}):
        attempt("ptrace", 101, request, pid, 0, 0)
