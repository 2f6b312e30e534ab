# language: restricted
# expect: ok
# says: nothing
# why: Between the check of a class's slots and their use the library calls methods of the program's.
from enum import Enum
names = ["x"]
turns = []
class Key:
    def __hash__(self):
        turns.append(1)
        if len(turns) > 1: names[:] = ["__getattr__"]
        return 1
    def __eq__(self, other): return False
class E(Enum):
    _ignore_ = [Key()]
    __slots__ = names
    ONE = 1
try:
    E.ONE.nothing
except AttributeError as error:
    if "nothing" not in str(error): escaped(error, names)
    print("nothing")
