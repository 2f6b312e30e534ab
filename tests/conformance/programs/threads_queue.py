# expect: [0, 1, 4, 9]
import queue
import threading
q = queue.Queue()
out = []
def worker():
    while True:
        item = q.get()
        if item is None:
            break
        out.append(item * item)
        q.task_done()
t = threading.Thread(target=worker)
t.start()
for i in range(4):
    q.put(i)
q.put(None)
t.join()
print(out)
