# language: python
# expect: ok
# use: syscall
# says: memfd_create EPERM
# why: A file in memory can be sealed, executed, shared; a secret one is not even the kernel's to read.
attempt("memfd_create", 319, b"x", 0)
attempt("memfd_secret", 447, 0)
attempt("shmget", 29, 0, 4096, 0o1600)
attempt("shmat", 30, 0, 0, 0)
attempt("msgget", 68, 0, 0o1600)
attempt("semget", 64, 0, 1, 0o1600)
attempt("mq_open", 240, b"x", 0o102, 0o600, 0)
attempt("execveat", 322, 3, b"", 0, 0, 0x1000)
