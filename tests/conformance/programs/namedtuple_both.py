# expect: Pair(a=1, b=0) Pair(a=1, b=5) {'user': 7, 'label': 'none'} ('user', 'label') ('none', 7) 8
from collections import namedtuple
from typing import NamedTuple
Pair = namedtuple("Pair", "a b", defaults=[0])
class Entry(NamedTuple):
    user: int
    label: str = "none"
    def key(self):
        return (self.label, self.user)
p, e = Pair(1), Entry(7)
print(p, p._replace(b=5), e._asdict(), Entry._fields, e.key(), p.a + e.user)
