# expect: 45
import threading
lock = threading.Lock()
total = 0
def work(n):
    global total
    with lock:
        total += n
threads = [threading.Thread(target=work, args=(i,)) for i in range(10)]
for t in threads:
    t.start()
for t in threads:
    t.join()
print(total)
