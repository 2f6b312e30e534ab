# language: python
# expect: ok
# use: tries
# says: ENOENT
# why: There is no /etc at all.
# gvisor: says ENOENT ; reaches 2 ; why root: a host name that says nothing, and no name servers
tries(*(lambda path=path: open(path).read() for path in ("/etc/passwd", "/etc/shadow", "/etc/hostname", "/etc/resolv.conf")))
