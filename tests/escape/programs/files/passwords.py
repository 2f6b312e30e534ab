# language: python
# expect: ok
# use: tries
# says: ENOENT
# why: There is no /etc at all.
tries(*(lambda path=path: open(path).read() for path in ("/etc/passwd", "/etc/shadow", "/etc/hostname", "/etc/resolv.conf")))
