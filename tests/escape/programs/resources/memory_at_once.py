# language: both
# expect: error memory
# says: MemoryError
# why: One request for far more than there is.
x = "x" * (1 << 36)
