# language: python
# expect: ok
# says: tried
# why: Netlink, packet, vsock, bluetooth, AF_ALG, TIPC, CAN: each is a piece of kernel.
import errno, socket
tried = 0
for family in range(64):
    for kind in (1, 2, 3, 4, 5, 10):
        for protocol in (0, 1, 6, 16, 17, 255):
            tried += 1
            try:
                socket.socket(family, kind, protocol).close()
            except OSError as error:
                if error.errno == errno.EPERM:
                    continue
            escaped(family, kind, protocol)
print("tried", tried)
