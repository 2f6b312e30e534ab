# expect: 1.2 < 1.9.1 < 1.10 True True
from functools import total_ordering
@total_ordering
class Version:
    def __init__(self, text):
        self.parts = tuple(int(p) for p in text.split("."))
    def __eq__(self, other):
        return self.parts == other.parts
    def __lt__(self, other):
        return self.parts < other.parts
    def __str__(self):
        return ".".join(map(str, self.parts))
vs = sorted(map(Version, ["1.10", "1.2", "1.9.1"]))
print(" < ".join(str(v) for v in vs), vs[0] <= vs[1], max(vs) >= vs[2])
