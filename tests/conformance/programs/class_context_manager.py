# expect: scan True 160
import time
class Timer:
    def __init__(self, label):
        self.label = label
    def __enter__(self):
        self.t0 = time.perf_counter()
        return self
    def __exit__(self, exc_type, exc, tb):
        self.elapsed = time.perf_counter() - self.t0
        return False
with Timer("scan") as t:
    n = context.count("Instance")
print(t.label, t.elapsed >= 0, n)
