# language: restricted
# expect: rejected error
# why: Identifiers are normalised after the eye has read them.
def f(): pass
escaped(f.__ｃode__)
