# language: python
# expect: ok
# says: seen [1]
# why: Signal 0 tells who exists: only this box.
import os
seen = []
for pid in [*range(1, 10000), {{host_pid}}, {{zygote}}]:
    try:
        os.kill(pid, 0)
        seen.append(pid)
    except ProcessLookupError:
        pass
print("seen", seen)
