# language: both
# expect: error memory
# says: MemoryError
# why: A width is a size.
x = "{:>68719476736}".format(1)
