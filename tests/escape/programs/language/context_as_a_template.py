# language: restricted
# expect: rejected error
# why: The document's own text may be a format template; its fields must not reach attributes.
def f(): pass
escaped((context[0:0] + "{0.__globals__}").format(f))
