# language: restricted
# expect: ok
# says: copies
# why: A read-only view hands the dict that it protects to whatever it is compared or joined with.
import re
from dataclasses import dataclass, fields
from enum import Enum
class Spy:
    def __eq__(self, other):
        other["planted"] = 1
        return True
    __ror__ = __eq__
class Color(Enum):
    RED = 1
@dataclass
class D:
    x: int
pattern = re.compile("(?P<a>x)")
reads = [lambda: pattern.groupindex, lambda: re.search(pattern, "x").re.groupindex, lambda: fields(D)[0].metadata]
for read in [*reads, lambda: Color.__members__]:
    read() == Spy()
    read() | Spy()
    if "planted" in read(): escaped(read())
print("copies")
