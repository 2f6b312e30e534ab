# language: restricted
# expect: error
# says: the attribute '__wrapped__' is not available here
# why: What the wall itself wraps is not the program's.
import contextlib
@contextlib.contextmanager
def section():
    yield 1
escaped(section.__wrapped__)
