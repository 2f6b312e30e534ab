# language: python
# expect: protocol timeout ok
# use: wire
# hasty
# why: Out-of-band data is a second stream in the first.
import ctypes
print(ctypes.CDLL(None).send(3, b"x", 1, 1))
time.sleep(30)
