# expect: [10, 7] True True 1 False [11, 8] 7
class Bag:
    def __init__(self, *items):
        self._items = list(items)
    def __iter__(self):
        return iter(self._items)
    def __getitem__(self, i):
        return self._items[i]
    def __setitem__(self, i, v):
        self._items[i] = v
    def __delitem__(self, i):
        del self._items[i]
    def __contains__(self, x):
        return x in self._items
    def __eq__(self, other):
        return isinstance(other, Bag) and self._items == other._items
    def __hash__(self):
        return hash(tuple(self._items))
    def __add__(self, other):
        return Bag(*self, *other)
    def __bool__(self):
        return bool(self._items)
    def __call__(self, f):
        return [f(x) for x in self]
    def __len__(self):
        return len(self._items)

b = Bag(1, 2) + Bag(3)
b[0] = 10
b[1] += 5
del b[2]
print(list(b), 7 in b, b == Bag(10, 7), len({b, Bag(10, 7)}), bool(Bag()), b(lambda x: x + 1), b[-1])
