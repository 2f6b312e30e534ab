# language: python
# expect: error
# why: Neither is a crash.
# says: signal 11
# containers: says exit code 139 ; why signals: the daemon tells a signal as 128 more
import ctypes
ctypes.string_at(0)
