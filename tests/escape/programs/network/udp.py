# language: python
# expect: ok
# use: tries
# says: EPERM
# why: One datagram is enough to carry a secret out.
import socket
tries(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", {{udp}})))
tries(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b"x", ("::1", {{udp}})))
