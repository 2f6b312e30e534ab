# language: both
# expect: ok
# says: answer
# why: The pool's end waits for its threads; ours does not wait for the pool.
import concurrent.futures, time
pool = concurrent.futures.ThreadPoolExecutor(4)
for _ in range(8):
    pool.submit(time.sleep, 60)
FINAL("answer")
