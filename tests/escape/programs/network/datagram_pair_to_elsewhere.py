# language: python
# expect: ok
# use: tries
# says: EPERM
# why: A datagram end of a pair may be told another destination with each message. Pairs are streams, and have none.
import socket
tries(
    lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
    lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET),
    lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW),
)
left, right = socket.socketpair()
tries(
    lambda: left.sendto(b"x", "\0{{abstract}}"),
    lambda: left.sendto(b"x", "{{unix_datagram}}"),
    lambda: left.sendto(b"x", "/dev/log"),
    lambda: left.connect("\0{{abstract}}"),
    lambda: left.bind("/tmp/mine"),
)
