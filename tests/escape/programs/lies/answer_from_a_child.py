# language: python
# expect: ok
# why: A forked child shares the wire, and with it the right to answer.
# says: from a child
import os, time
if os.fork() == 0:
    FINAL('from a child')
time.sleep(30)
