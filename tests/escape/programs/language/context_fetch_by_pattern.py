# language: restricted
# expect: rejected error
# why: A class pattern reads attributes in C.
match context:
    case object(_fetch=fetch):
        escaped(fetch)
