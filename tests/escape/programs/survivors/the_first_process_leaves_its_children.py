# language: python
# expect: error
# says: exit code 0
# why: When the first process ends, the namespace ends.
import os, time
if os.fork() == 0:
    time.sleep(2)
    open("{{marker}}", "w")
os._exit(0)
