# language: restricted
# expect: ok
# says: tied
# why: `case a.b` compares in C: what it read would reach the subject's `__eq__` without passing a guard.
import threading, random
class Spy:
    def __eq__(self, other):
        try:
            other(random.Random, "planted")
        except TypeError:
            print("tied")
        return False
match Spy():
    case threading.Thread.setName: pass
match {"a": Spy()}:
    case {"a": threading.Thread.setName}: pass
if hasattr(random.Random, "name"): escaped(random.Random.name)
