# language: python
# expect: ok
# use: tries
# says: EPERM
# why: Abstract names know no root folder, only the network namespace.
import socket
def connect():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.connect("\0{{abstract}}")
tries(connect)
