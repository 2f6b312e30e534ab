# language: python
# expect: error
# use: wire
# why: Who hangs up has ended.
import ctypes
print(ctypes.CDLL(None).shutdown(3, 1))
time.sleep(30)
