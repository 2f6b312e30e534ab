# language: python
# expect: error
# use: wire
# says: its wire
# why: Requests go out, and no reply can come in.
import ctypes
ctypes.CDLL(None).shutdown(3, 0)
say(frame({"op": "read", "id": 1, "doc": 0, "start": 0, "stop": 10}))
time.sleep(30)
