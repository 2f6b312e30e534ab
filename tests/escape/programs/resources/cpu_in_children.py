# language: python
# expect: cpu
# limit: limits.cpu
# why: The limit on CPU time of the kernel is per process; the box's is for all.
import os
for _ in range(8):
    if os.fork() == 0:
        while True:
            pass
while True:
    pass
