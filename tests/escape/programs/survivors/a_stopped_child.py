# language: python
# expect: ok
# says: started
# why: A stopped process takes no signal but one.
import os, signal, time
child = os.fork()
if child == 0:
    time.sleep(60)
os.kill(child, signal.SIGSTOP)
print("started")
