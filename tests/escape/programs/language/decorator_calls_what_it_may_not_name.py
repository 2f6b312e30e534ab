# language: restricted
# expect: rejected error
# why: A decorator is a call that looks like none.
@llm_query.__class__
def f(self): pass
escaped(f)
