# expect: 3 4 twice Doubles. 5
import functools


def doubled(function):
    @functools.wraps(function)
    def wrapper(*values):
        return 2 * function(*values)

    return wrapper


@doubled
def twice(x):
    """Doubles."""
    return x


@functools.lru_cache(maxsize=None)
def five():
    return 5


print(twice.__wrapped__(3), twice(2), twice.__name__, twice.__doc__, five.__wrapped__())
