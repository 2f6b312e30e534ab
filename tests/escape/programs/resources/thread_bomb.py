# language: both
# expect: processes
# limit: processes
# why: Threads are tasks of the kernel.
import threading, time
while True:
    threading.Thread(target=time.sleep, args=(60,)).start()
