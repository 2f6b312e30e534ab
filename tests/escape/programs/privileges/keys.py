# language: python
# expect: ok
# use: syscall
# says: keyctl EPERM
# why: Keyrings are shared by uid across boxes.
attempt("add_key", 248, b"user", b"x", b"y", 1, -3)
attempt("request_key", 249, b"user", b"x", 0, 0)
for operation in (0, 1, 2, 6, 8, 11, 31):
    attempt("keyctl", 250, operation, -3, 0, 0, 0)
