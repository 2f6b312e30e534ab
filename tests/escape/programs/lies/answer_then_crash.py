# language: python
# expect: ok
# why: A crash after the answer takes nothing back.
# says: first
import ctypes
try:
    FINAL('first')
finally:
    ctypes.string_at(0)
