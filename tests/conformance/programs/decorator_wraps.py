# expect: 3 6 2 add Adds.
from functools import wraps
def logged(f):
    @wraps(f)
    def inner(*args, **kwargs):
        inner.calls += 1
        return f(*args, **kwargs)
    inner.calls = 0
    return inner
@logged
def add(a, b=2):
    "Adds."
    return a + b
print(add(1), add(1, b=5), add.calls, add.__name__, add.__doc__)
