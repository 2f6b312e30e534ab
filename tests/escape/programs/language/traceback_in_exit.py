# language: restricted
# expect: ok
# says: none
# why: A traceback is one name away from a frame.
import contextlib
class Manager:
    def __enter__(self): return self
    def __exit__(self, kind, error, trace):
        if trace is not None: escaped(trace)
        return True
with Manager(): 1 / 0
class Like:
    def __next__(self): return 1
    def throw(self, *args):
        for one in args[2:]: escaped(one)
try:
    with contextlib.contextmanager(lambda: Like())(): 1 / 0
except TypeError:
    print("none")
