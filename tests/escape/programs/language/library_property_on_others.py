# language: restricted
# expect: error
# says: works only on its own objects
# why: A property's own function reads and writes hidden attributes of whatever object it is given.
import threading
from dataclasses import dataclass, fields
@dataclass
class A:
    x: int = 0
class Like:
    _initialized = True
like = Like()
threading.Thread.name.fset(like, "planted")
escaped(like._name)
