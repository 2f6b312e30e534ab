# language: python
# expect: error
# says: mine
# why: Whoever started a program in here to look around would wait for it as long as the guest likes.
import os, signal, time
if os.fork() == 0:
    own = os.getpid()
    while True:
        for pid in range(own + 1, own + 300):
            try:
                os.kill(pid, signal.SIGSTOP)
            except OSError:
                pass
        time.sleep(0.01)
raise OSError("mine")
