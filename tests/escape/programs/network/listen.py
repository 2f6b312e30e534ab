# language: python
# expect: ok
# use: tries
# says: EPERM
# why: A listener in the box would be a way in.
import socket
tries(lambda: socket.create_server(("127.0.0.1", 0)), lambda: socket.create_server("/tmp/s", family=socket.AF_UNIX))
