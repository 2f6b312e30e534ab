# language: restricted
# expect: error
# says: a Flag cannot derive from a class that defines __new__
# why: Members for values without a name are made later, by the mixin's `__new__`.
from enum import Flag
import random
given = []
class Mixin(int):
    def __new__(cls, *args): return given[0] if given else int.__new__(cls, *args)
class F(Mixin, Flag):
    A = 1
    B = 2
given.append(random.Random)
try:
    F.A | F.B
finally:
    if hasattr(random.Random, "_value_"): escaped(random.Random)
