# language: restricted
# expect: rejected error
# why: A metaclass decides what a class body means.
class A(**{"metaclass": type}): pass
escaped(type(A)("B", (A,), {}))
