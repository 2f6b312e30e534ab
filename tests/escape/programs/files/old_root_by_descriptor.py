# language: python
# expect: ok
# use: tries
# says: ENOTDIR
# why: Each descriptor is tried as a folder to start from.
import os
tries(*(lambda number=number: os.open("..", os.O_RDONLY, dir_fd=number) for number in range(4)))
for number in range(4, 256):
    try:
        escaped(os.open(".", os.O_RDONLY, dir_fd=number))
    except OSError:
        pass
