# language: python
# expect: ok
# use: syscall
# says: F_SETOWN EPERM
# why: Signals to others on input, leases, larger pipes, terminals: none is needed.
for name, command in (("F_SETOWN", 8), ("F_GETOWN", 9), ("F_SETSIG", 10), ("F_SETOWN_EX", 15), ("F_OFD_SETLK", 37),
                      ("F_SETLEASE", 1024), ("F_NOTIFY", 1026), ("F_SETPIPE_SZ", 1031), ("F_ADD_SEALS", 1033),
                      ("F_SET_RW_HINT", 1036), ("F_SETDELEG", 1034)):
    attempt(name, 72, 3, command, 1)
for name, request in (("TIOCSTI", 0x5412), ("TIOCSCTTY", 0x540E), ("TIOCLINUX", 0x541C), ("FIOASYNC", 0x5452),
                      ("FIOSETOWN", 0x8901), ("FS_IOC_SETFLAGS", 0x40086602), ("FICLONE", 0x40049409),
                      ("SIOCGIFCONF", 0x8912), ("FIBMAP", 1), ("RNDADDENTROPY", 0x40085203), ("NS_GET_USERNS", 0xB701)):
    attempt(name, 16, 3, request, 0)
    attempt(name + " and high bits", 16, 3, (1 << 32) | request, 0)
