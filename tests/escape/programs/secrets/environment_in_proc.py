# language: python
# expect: ok
# use: tries
# says: ENOENT
# why: The environment of this process, its parent and the host's process.
# gvisor: says ENOENT ; reaches 3 ; why proc: its own process and thread alone, and Docker's path and host name
tries(*(lambda pid=pid: open(f"/proc/{pid}/environ", "rb").read() for pid in ("self", 1, 2, {{zygote}}, {{host_pid}})))
