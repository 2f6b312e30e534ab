# language: restricted
# expect: error
# says: register() takes classes of your own
# why: A virtual subclass changes what the whole library takes for a Mapping.
import abc, threading
from collections.abc import Mapping
class M(Mapping):
    def __getitem__(self, key): return 1
    def __iter__(self): return iter([])
    def __len__(self): return 0
for target in (abc.ABC, M):
    try:
        target.register(threading.Thread)
    except TypeError as error:
        print(error)
    if isinstance(threading.Thread(), target): escaped(target)
getattr(M, "register")(int)
