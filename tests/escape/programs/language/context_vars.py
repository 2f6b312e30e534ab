# language: restricted
# expect: rejected error
# why: vars() is a dictionary of private attributes.
escaped(vars(context))
