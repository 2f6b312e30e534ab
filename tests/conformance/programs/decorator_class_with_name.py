# expect: ask 2
from functools import wraps, update_wrapper
class Traced:
    def __init__(self, f):
        self.f = f
        self.calls = 0
        self.__name__ = f.__name__
    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.f(*args, **kwargs)
@Traced
def ask(prompt):
    return llm_query(prompt)
ask("Where ?")
ask("Who ?")
print(ask.__name__, ask.calls)
