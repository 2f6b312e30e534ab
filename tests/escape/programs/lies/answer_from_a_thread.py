# language: both
# expect: ok
# why: The thread's answer is the run's; the main program is stopped by it.
# says: from a thread
import threading, time
threading.Thread(target=lambda: FINAL('from a thread')).start()
time.sleep(30)
