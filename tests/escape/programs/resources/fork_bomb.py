# language: python
# expect: processes error cpu memory
# why: The classic; each child forks on, and each has memory of its own.
# gvisor: expect memory cpu ; why tasks: its kernel counts none; their memory is the box's, and runs out
import os
while True:
    os.fork()
