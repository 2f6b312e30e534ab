# language: restricted
# expect: error
# says: works only on its own objects
# why: A class pattern binds what it reads in C: it must be what the program could read by the same name.
import collections
match collections.Counter:
    case object(copy=found): escaped(found(int))
