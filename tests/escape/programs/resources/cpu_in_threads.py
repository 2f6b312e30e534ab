# language: both
# expect: cpu
# limit: limits.cpu
# why: Threads are charged to the box.
import threading
def spin():
    while True:
        pass
for _ in range(4):
    threading.Thread(target=spin).start()
spin()
