# language: python
# expect: ok
# use: tries
# says: ENOENT
# why: Three harmless devices and no other.
# gvisor: says ENOENT ; reaches 8 ; why devices: its own kernel's, with nothing of the host's behind them
names = "mem kmem port sda vda loop0 kmsg shm tty ptmx pts/0 fuse kvm net/tun mapper/control random full console fd/0 stdin".split()
tries(*(lambda name=name: open("/dev/" + name, "rb") for name in names))
