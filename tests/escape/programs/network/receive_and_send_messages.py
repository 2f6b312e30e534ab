# language: python
# expect: ok
# use: tries
# says: EPERM
# why: Messages carry descriptors and addresses.
import array, os, socket
left, right = socket.socketpair()
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))]
tries(lambda: left.sendmsg([b"x"], rights), lambda: right.recvmsg(10, 100))
