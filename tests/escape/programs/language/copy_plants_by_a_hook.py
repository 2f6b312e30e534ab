# language: restricted
# expect: error
# says: AttributeError
# why: State that changes while it is copied would set attributes of any name.
import copy
class Target: pass
class Source:
    __slots__ = ("z",)
    def __new__(cls): return Target
s = object.__new__(Source)
held = []
class Memo:
    def get(self, key, default): return default
    def __getitem__(self, key): raise KeyError
    def __setitem__(self, key, value): held.append(value)
class Value:
    def __deepcopy__(self, memo):
        for one in held:
            if type(one) is dict: one["__getattr__"] = lambda self, name: "planted " + name
        return 1
s.z = Value()
copy.deepcopy(s, Memo())
escaped(Target().anything)
