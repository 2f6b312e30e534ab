# language: restricted
# expect: rejected error
# why: Native code without any bug.
import ctypes
escaped(ctypes.CDLL(None))
