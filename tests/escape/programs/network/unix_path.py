# language: python
# expect: ok
# use: tries
# says: EPERM
# why: Daemons listen on paths.
import socket
def connect(kind, address):
    with socket.socket(socket.AF_UNIX, kind) as one:
        one.connect(address)
tries(lambda: connect(socket.SOCK_STREAM, "{{unix}}"), lambda: connect(socket.SOCK_DGRAM, "{{unix_datagram}}"))
tries(lambda: connect(socket.SOCK_STREAM, "/var/run/docker.sock"))
