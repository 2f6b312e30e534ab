# language: both
# expect: ok
# says: answer
# why: Nobody joins them.
import threading, time
for _ in range(5):
    threading.Thread(target=time.sleep, args=(60,)).start()
FINAL("answer")
