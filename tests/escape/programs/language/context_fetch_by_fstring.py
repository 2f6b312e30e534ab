# language: restricted
# expect: rejected error
# why: An attribute inside of an f-string is an attribute.
escaped(f"{context._fetch}")
