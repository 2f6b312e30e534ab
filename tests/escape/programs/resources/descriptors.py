# language: python
# expect: error
# says: Too many open files
# why: Each is kernel memory.
import os
kept = []
while True:
    kept.append(os.open("/dev/null", os.O_RDONLY))
