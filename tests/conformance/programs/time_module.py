# expect: True 1970 True
import time
t0 = time.time()
time.sleep(0.001)
print(time.time() > t0, time.strftime("%Y", time.gmtime(0)), time.monotonic() > 0)
