# language: both
# expect: error
# why: A MemoryError that the kernel knows nothing of is an error like others.
# says: MemoryError
raise MemoryError
