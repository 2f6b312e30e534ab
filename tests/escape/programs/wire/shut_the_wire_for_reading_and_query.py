# language: python
# expect: error
# use: wire
# says: its wire
# why: The same for what is answered in its own time.
import ctypes
ctypes.CDLL(None).shutdown(3, 0)
say(frame({"op": "query", "id": 1, "model": None, "lengths": [1]}, b"x"))
time.sleep(30)
