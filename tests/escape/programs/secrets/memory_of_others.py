# language: python
# expect: ok
# use: syscall
# says: process_vm_readv EPERM
# why: The supervisor, the zygote and the host's process run on the same machine.
buffer = ctypes.create_string_buffer(4096)
vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 4096)
for pid in (1, 2, {{zygote}}, {{host_pid}}):
    attempt("process_vm_readv", 310, pid, vector, 1, vector, 1, 0)
    attempt("process_vm_writev", 311, pid, vector, 1, vector, 1, 0)
