# advice: has no option
from dataclasses import dataclass
@dataclass(weakref_slot=True)
class A:
    x: int
