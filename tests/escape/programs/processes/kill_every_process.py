# language: python
# expect: ok
# says: still here
# why: -1 is everybody, 0 the group, and the first process of a box cannot kill itself this way.
import os, signal
for pid in (-1, 0, 1, {{zygote}}, {{host_pid}}):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError as error:
        print(error)
print("still here")
