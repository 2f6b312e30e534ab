# language: restricted
# expect: error
# says: must return an object of the Enum itself
# why: The same with a `__new__` that is inherited.
from enum import Enum
import random
class Mixin:
    def __new__(cls, *args): return random.Random
try:
    class E(Mixin, Enum):
        A = 1
finally:
    if hasattr(random.Random, "_value_"): escaped(random.Random)
