# language: python
# expect: memory error
# why: Pages that the allocator does not know of.
import mmap
maps = []
while True:
    one = mmap.mmap(-1, 8 << 20)
    for at in range(0, 8 << 20, 4096):
        one[at] = 1
    maps.append(one)
