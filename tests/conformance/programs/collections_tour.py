# expect: [4, 2, 3] [('s', 6), ('i', 4)] {'x': {1}} ['a'] 2 True
from collections import deque, Counter, defaultdict, OrderedDict, ChainMap
d = deque([1, 2, 3], maxlen=3)
d.append(4)
d.rotate(1)
c = Counter("mississippi")
c.update("ss")
c["m"] -= 1
g = defaultdict(set)
g["x"].add(1)
print(list(d), c.most_common(2), dict(g), list(OrderedDict(a=1)), ChainMap({"a": 1}, {"b": 2})["b"], +c == c)
