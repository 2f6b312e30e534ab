# language: python
# expect: error
# use: wire
# says: wire
# why: Who hangs up has ended.
import socket
one = socket.socket(fileno=3)
one.shutdown(socket.SHUT_WR)
time.sleep(30)
