# language: restricted
# expect: rejected error
# why: A builtin function names its module.
escaped(print.__self__)
