# expect: 1 [('a', 1)] True True True
from collections.abc import Mapping, Iterable
class Frozen(Mapping):
    def __init__(self, d):
        self._d = dict(d)
    def __getitem__(self, k):
        return self._d[k]
    def __iter__(self):
        return iter(self._d)
    def __len__(self):
        return len(self._d)
f = Frozen(a=1) if False else Frozen({"a": 1})
print(f.get("a"), list(f.items()), "a" in f, isinstance([1], Iterable), isinstance({}, Mapping))
