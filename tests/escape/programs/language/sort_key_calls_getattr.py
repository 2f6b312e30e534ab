# language: restricted
# expect: rejected error
# why: C code calls the guarded getattr with names of the program's choice.
escaped(list(map(getattr, [print], ["__self__"])))
