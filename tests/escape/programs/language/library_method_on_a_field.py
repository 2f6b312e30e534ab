# language: restricted
# expect: error
# says: works only on its own objects
# why: The name of a dataclass's field becomes program text when the next class is made.
import threading
from dataclasses import dataclass, fields
@dataclass
class A:
    x: int = 0
threading.Thread.setName(fields(A)[0], "x,setattr(self.__class__,'got',open)")
@dataclass(init=False, repr=False)
class C(A): pass
C.x = 1
object.__new__(C) == object.__new__(C)
escaped(C.got)
