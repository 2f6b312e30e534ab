# language: python
# expect: processes error cpu
# why: The classic; each child forks on.
import os
while True:
    os.fork()
