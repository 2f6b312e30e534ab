# language: python
# expect: error
# use: wire
# why: Who hangs up has ended.
import ctypes
print(ctypes.CDLL(None).shutdown(3, 2))
time.sleep(30)
