# language: python
# expect: timeout
# use: wire
# why: Replies pile up; the host does not wait for them beyond the deadline.
# hasty
# limit: limits.cell_wall
import threading
for number in range(1, 40):
    say(frame({"op": "read", "id": number, "doc": 0, "start": 0, "stop": 20000, "line": 0}))
time.sleep(30)
