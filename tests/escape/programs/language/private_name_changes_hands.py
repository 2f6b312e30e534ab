# language: restricted
# expect: error
# says: the private attribute
# why: What is checked must be what is read: a class's own attribute may go while it is looked up.
from collections import Counter
class T(Counter):
    def _keep_positive(self): return 1
def vanish():
    while "x" not in stop:
        T._keep_positive = None
        del T._keep_positive
import threading
stop = []
T._keep_positive = None
thread = threading.Thread(target=vanish)
thread.start()
try:
    for turn in range(2000):
        try:
            found = T()._keep_positive
        except AttributeError:
            continue
        if found is not None and found() != 1: escaped(found)
finally:
    stop.append("x")
    thread.join()
T()._keep_positive
