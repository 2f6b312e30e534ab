# language: restricted
# expect: error
# says: works only on its own objects
# why: A method written in Python, taken from its class, works on whatever it is given; of a class, its type is `type`.
import collections
found = collections.Counter.copy(int)
escaped(found("X", (), {"__getattr__": lambda self, name: name}))
