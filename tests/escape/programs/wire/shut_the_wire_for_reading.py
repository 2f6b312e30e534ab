# language: python
# expect: error
# use: wire
# why: Requests go out, and no reply can come in.
# says: wire
import socket
one = socket.socket(fileno=3)
one.shutdown(socket.SHUT_RD)
say(frame({"op": "read", "id": 1, "doc": 0, "start": 0, "stop": 10}))
time.sleep(30)
