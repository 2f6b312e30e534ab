# language: restricted
# expect: ok
# says: tied
# why: `case a.b` compares in C: what it read would reach the subject's `__eq__` without passing a guard.
import collections
class Spy:
    def __eq__(self, other):
        try:
            escaped(other(int))
        except TypeError:
            print("tied")
        return False
match Spy():
    case collections.Counter.copy: pass
match {"a": Spy()}:
    case {"a": collections.Counter.copy}: pass
