# language: restricted
# expect: rejected error
# why: The same by a name put together at run time.
escaped(getattr(context, "_" + "fetch"))
