# language: python
# expect: ok
# says: answer
# why: The interpreter's end is not waited for.
import atexit, threading, time
atexit.register(time.sleep, 60)
threading._register_atexit(time.sleep, 60)
class Late:
    def __del__(self):
        time.sleep(60)
late = Late()
FINAL("answer")
