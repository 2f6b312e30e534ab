# language: python
# expect: error
# use: wire
# says: its wire
# why: Requests go out, and no reply can come in.
# containers: expect timeout error ok ; hasty true ; why end: Docker tells the end of a stream with the container's, so the deadline ends it, or it ends by itself
import ctypes
if ctypes.CDLL(None).shutdown(3, 0):  # a pair of pipes can only be closed
    os.close({{wire_read}})
say(frame({"op": "read", "id": 1, "doc": 0, "start": 0, "stop": 10, "line": 0}))
time.sleep(5)
