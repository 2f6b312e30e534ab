# language: restricted
# expect: error
# says: only futures can be waited for
# why: Who looks like a future would be given the library's own waiter.
import concurrent.futures
class Keep(list):
    def append(self, value): escaped(value)
class Lock:
    def acquire(self): pass
    def release(self): pass
class Like:
    _condition = Lock()
    _state = "PENDING"
    _waiters = Keep()
concurrent.futures.wait([Like()], timeout=0)
