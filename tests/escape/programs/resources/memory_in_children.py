# language: python
# expect: memory error cpu
# why: Every process stays below the limit; together they do not. Filled slowly.
import os, time
for _ in range(6):
    if os.fork() == 0:
        block = bytearray(60 << 20)
        for at in range(0, len(block), 4096):
            block[at] = 1
        time.sleep(60)
block = bytearray(60 << 20)
for at in range(0, len(block), 4096):
    block[at] = 1
raise MemoryError("if the kernel took only children")
