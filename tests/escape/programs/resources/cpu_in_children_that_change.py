# language: python
# expect: cpu
# limit: limits.cpu
# why: Each child lives for an instant; their time adds up.
import os
while True:
    if os.fork() == 0:
        sum(range(200_000))
        os._exit(0)
    os.wait()
