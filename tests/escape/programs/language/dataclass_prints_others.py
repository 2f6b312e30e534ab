# language: restricted
# expect: error
# says: a field cannot be called 'gi_frame'
# why: A generated `__repr__` prints attributes of whatever object it is given.
from dataclasses import dataclass
@dataclass
class D:
    gi_frame: object
escaped(D.__repr__(x for x in [1]))
