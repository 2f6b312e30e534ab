# language: restricted
# expect: error
# says: works only on its own objects
# why: A generated `__init__` sets attributes of whatever object it is given.
from dataclasses import dataclass
import random
@dataclass
class D:
    shuffle: object
try:
    D.__init__(random.Random, "planted")
finally:
    if random.Random.shuffle == "planted": escaped("a library class was changed")
