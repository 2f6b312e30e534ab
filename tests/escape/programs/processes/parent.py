# language: python
# expect: ok error
# why: The parent is outside; asking for it gives nothing to aim at.
import os
parent = os.getppid()
print(parent)
if parent > 0:
    escaped(parent)
