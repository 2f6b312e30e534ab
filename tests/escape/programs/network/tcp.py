# language: python
# expect: ok
# use: tries
# says: EPERM
# why: A listener is waiting on the host's loopback.
import socket, urllib.request
def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.connect(address)
tries(lambda: connect(socket.AF_INET, ("127.0.0.1", {{tcp}})), lambda: connect(socket.AF_INET6, ("::1", {{tcp}})))
tries(lambda: socket.create_connection(("127.0.0.1", {{tcp}})))
try:
    escaped(urllib.request.urlopen("http://127.0.0.1:{{tcp}}/"))
except OSError as error:
    print(error)
