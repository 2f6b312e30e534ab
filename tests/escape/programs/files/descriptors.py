# language: python
# expect: ok
# says: [0, 1, 2, 3]
# why: A descriptor that leaked in from the host is a door; a folder's is the worst.
import os
found = []
for number in range(70000):
    try:
        os.fstat(number)
        found.append(number)
    except OSError:
        pass
print(found)
