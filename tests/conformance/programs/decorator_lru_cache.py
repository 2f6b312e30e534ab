# expect: 1548008755920 True 16
from functools import lru_cache, cache
@lru_cache(maxsize=None)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
@cache
def sq(x):
    return x * x
print(fib(60), fib.cache_info().hits > 0, sq(4))
