# language: python
# expect: timeout
# why: Deadlines are the host's.
# hasty
# limit: limits.cell_wall
import time
time.monotonic = time.time = lambda: 0
while True:
    time.sleep(0.01)
