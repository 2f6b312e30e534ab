# language: restricted
# expect: ok
# says: unseen
# why: Library functions compare annotations with special forms that nobody hands out.
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Optional
class Spy:
    def __eq__(self, other): escaped(other)
    def __hash__(self): return hash(int)
    def __call__(self): pass
class Row(NamedTuple):
    a: Spy()
    b: Optional[Spy()] = None
@dataclass
class D:
    a: Spy()
    b: ClassVar[Spy()] = None
if Row.__annotations__["a"].__class__ is not Spy or D(1) != D(1) or Row(1) != (1, None): escaped(Row)
print("unseen")
