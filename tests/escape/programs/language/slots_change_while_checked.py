# language: restricted
# expect: rejected error
# why: A list of slots may be another one when it is used than when it is checked.
from enum import Enum
class Names(list):
    def __init__(self):
        super().__init__(["x"])
        self.turn = 0
    def __iter__(self):
        self.turn += 1
        return iter(["__getattr__"] if self.turn == 1 else ["x"])
held = []
try:
    class A:
        __slots__ = Names()
    held.append(A)
except TypeError:
    pass
names = ["__getattr__"]
class Member:
    def __new__(cls, *args):
        names[:] = ["x"]
        held.append(cls)
        return object.__new__(cls)
class E(Member, Enum):
    __slots__ = names
    ONE = 1
for cls in held:
    escaped(cls)
