# language: python
# expect: ok
# use: syscall
# says: mount EPERM
# why: The old and the new way to change what is mounted where.
attempt("mount", 165, b"proc", b"/tmp", b"proc", 0, 0)
attempt("mount bind", 165, b"/", b"/tmp", 0, 4096, 0)
attempt("remount", 165, 0, b"/", 0, 4096 | 32, 0)
attempt("umount2", 166, b"/tmp", 2)
attempt("pivot_root", 155, b"/", b"/tmp")
attempt("chroot", 161, b"/tmp")
attempt("open_tree", 428, -100, b"/", 1)
attempt("move_mount", 429, -100, b"/", -100, b"/tmp", 0)
attempt("fsopen", 430, b"proc", 0)
attempt("fsconfig", 431, 3, 6, 0, 0, 0)
attempt("fsmount", 432, 3, 0, 0)
attempt("fspick", 433, -100, b"/", 0)
attempt("mount_setattr", 442, -100, b"/", 0x8000, ctypes.create_string_buffer(32), 32)
attempt("statmount", 457, ctypes.create_string_buffer(64), ctypes.create_string_buffer(512), 512, 0)
attempt("listmount", 458, ctypes.create_string_buffer(64), ctypes.create_string_buffer(512), 8, 0)
