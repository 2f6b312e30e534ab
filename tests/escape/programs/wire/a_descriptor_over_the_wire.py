# language: python
# expect: ok
# use: wire
# why: A descriptor would arrive on the host.
# says: not permitted
import array, socket
one = socket.socket(fileno=3)
try:
    one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
    escaped("sent")
except OSError as error:
    print(error.strerror)
one.detach()
