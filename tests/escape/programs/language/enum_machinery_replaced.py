# language: restricted
# expect: error
# says: cannot set the attribute '_member_type_'
# why: Members that are made later are made by what the class names, and named by the library.
from enum import Flag
import random
class F(Flag):
    A = 1
    B = 2
class Maker:
    def __new__(cls, *args): return random.Random
F._member_type_ = Maker
F(3)
if hasattr(random.Random, "_value_"): escaped(random.Random)
