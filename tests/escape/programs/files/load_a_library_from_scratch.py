# language: python
# expect: ok
# use: tries
# says: failed to map
# why: A shared object of one's own is native code with a constructor.
# gvisor: reaches 1 ; why noexec: it is asked for when a program is started, not when code is mapped
import ctypes, shutil
shutil.copyfile("/usr/lib/libm.so.6", "/tmp/mine.so")
try:
    escaped(ctypes.CDLL("/tmp/mine.so"))
except OSError as error:
    print(error)
