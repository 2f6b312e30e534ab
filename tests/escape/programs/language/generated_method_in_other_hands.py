# language: restricted
# expect: error
# says: works only on its own objects
# why: The library copies the attributes of what it wraps, a class's methods as well, into an object of another type.
import contextlib, functools, threading
from dataclasses import dataclass
def make():
    @dataclass
    class D:
        _target: object
    return D
@contextlib.contextmanager
def manager():
    yield
thread = threading.Thread(target=print)
try:
    escaped(functools.cache(make()).__repr__(thread))
except TypeError:
    pass
escaped(manager()(make()).__repr__(thread))
