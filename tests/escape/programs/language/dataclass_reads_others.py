# language: restricted
# expect: error
# says: works only on its own objects
# why: A generated `__eq__` reads hidden attributes and shows them to the program's own `__eq__`.
from dataclasses import dataclass
seen = []
class Spy:
    def __eq__(self, other):
        seen.append(other)
        return True
@dataclass
class D:
    _cls: object
    __hash__ = None
spy = D(Spy())
try:
    D.__eq__(type(llm_query), spy)
finally:
    for one in seen: escaped(one)
