# language: restricted
# expect: rejected error
# why: A function's globals are its module.
escaped(getattr(FINAL, "__func__").__globals__)
