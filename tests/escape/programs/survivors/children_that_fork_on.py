# language: python
# expect: ok processes error
# why: A process that is always young is hard to kill one by one.
import os, time
if os.fork() == 0:
    while True:
        try:
            if os.fork():
                os._exit(0)
        except OSError:
            time.sleep(0.01)
print("started")
