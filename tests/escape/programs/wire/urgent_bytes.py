# language: python
# expect: protocol timeout error
# use: wire
# why: Out-of-band data is a second stream in the first.
# hasty
import socket
one = socket.socket(fileno=3)
try:
    one.send(b"x", socket.MSG_OOB)
except OSError as error:
    print(error)
one.detach()
time.sleep(30)
