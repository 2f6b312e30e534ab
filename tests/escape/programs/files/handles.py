# language: python
# expect: ok
# use: syscall
# says: EPERM
# why: A file handle of inode 2 opens the host's root in container runtimes that let it.
buffer = ctypes.create_string_buffer(256)
attempt("name_to_handle_at", 303, -100, b"/", buffer, buffer, 0)
attempt("open_by_handle_at", 304, 3, buffer, 0)
