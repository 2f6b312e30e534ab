# expect: 120 32 [1, 3] [1, 2]
from operator import itemgetter, attrgetter, methodcaller, add, mul
from functools import reduce, partial, cmp_to_key
class R:
    def __init__(self, n):
        self.n = n
rows = [{"a": 2, "b": 1}, {"a": 1, "b": 5}]
print(sorted(rows, key=itemgetter("a"))[0], max([R(1), R(3)], key=attrgetter("n")).n, methodcaller("upper")("x"))
print(reduce(mul, range(1, 6)), partial(pow, 2)(5), sorted([3, 1], key=cmp_to_key(lambda x, y: x - y)), reduce(add, [[1], [2]]))
