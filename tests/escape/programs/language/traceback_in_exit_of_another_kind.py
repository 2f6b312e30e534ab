# language: restricted
# expect: error
# says: __exit__ must be a function of your own
# why: What stands for `__exit__` need not be a function.
import functools
def leave(*what): escaped(what[-1])
held = []
for one in (functools.partial(leave), staticmethod(leave), functools.cache(leave), property(lambda self: leave)):
    try:
        class Manager:
            def __enter__(self): return self
            __exit__ = one
        held.append(Manager)
    except TypeError:
        pass
for cls in held:
    with cls(): 1 / 0
class Manager:
    __exit__ = functools.partial(leave)
