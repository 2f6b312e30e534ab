# language: python
# expect: ok
# says: still here
# why: -1 is everybody, 0 the group, and the first process of a box cannot kill itself this way.
# gvisor: expect error ; says GuestDied ; why init: its first process is killed like any other, and the box with it
import os, signal
for pid in ({{zygote}}, {{host_pid}}, -1, 0, 1):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError as error:
        print(error)
print("still here")
