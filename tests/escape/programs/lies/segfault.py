# language: python
# expect: error
# why: Neither is a crash.
# says: signal 11
import ctypes
ctypes.string_at(0)
