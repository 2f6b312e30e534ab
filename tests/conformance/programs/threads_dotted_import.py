# expect: [1, 2, 4, 8, 16] True
import concurrent.futures
with concurrent.futures.ThreadPoolExecutor(max_workers=2) as ex:
    fs = [ex.submit(pow, 2, k) for k in range(5)]
    concurrent.futures.wait(fs)
print([f.result() for f in fs], all(f.done() for f in fs))
