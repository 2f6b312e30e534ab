# language: python
# expect: ok
# use: tries
# why: A pair is allowed; a datagram end of it may be told another destination with each message.
import socket
left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
tries(
    lambda: left.sendto(b"x", "\0{{abstract}}"),
    lambda: left.sendto(b"x", "{{unix_datagram}}"),
    lambda: left.sendto(b"x", "/dev/log"),
    lambda: left.connect("\0{{abstract}}"),
    lambda: left.bind("/tmp/mine"),
)
