# language: restricted
# expect: error
# says: works only on its own objects
# why: A generated comparison calls special methods of whatever object it is given.
import functools
@functools.total_ordering
class A:
    def __lt__(self, other): return True
class Like:
    def __lt__(self, other): return False
escaped(A.__ge__(Like(), 1))
