# language: python
# expect: error
# use: wire
# says: its wire
# why: The same for what is answered in its own time.
# containers: expect timeout error ok ; hasty true ; why end: Docker tells the end of a stream with the container's, so the deadline ends it, or it ends by itself
import ctypes
if ctypes.CDLL(None).shutdown(3, 0):  # a pair of pipes can only be closed
    os.close({{wire_read}})
say(frame({"op": "query", "id": 1, "model": None, "lengths": [1]}, b"x"))
time.sleep(5)
