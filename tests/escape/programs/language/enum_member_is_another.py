# language: restricted
# expect: error
# says: must return an object of the Enum itself
# why: The library names and initialises whatever object a program's `__new__` gives it for a member.
from enum import Enum
import threading
def target(): escaped("it was given a target")
thread = threading.Thread(target=print)
try:
    class E(Enum):
        A = (None, target)
        def __new__(cls, *args): return thread
finally:
    thread.start()
    thread.join()
