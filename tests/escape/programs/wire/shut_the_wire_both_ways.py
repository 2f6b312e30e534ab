# language: python
# expect: error
# use: wire
# why: Who hangs up has ended.
# says: wire
import socket
socket.socket(fileno=3).shutdown(socket.SHUT_RDWR)
time.sleep(30)
