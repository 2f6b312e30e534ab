# language: python
# expect: ok
# use: wire
# says: not permitted
# why: A descriptor would arrive on the host.
import array, socket
one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=3)
try:
    one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
    escaped("sent")
except OSError as error:
    print(error.strerror)
one.detach()
