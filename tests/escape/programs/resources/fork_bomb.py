# language: python
# expect: processes error cpu
# why: The classic; each child forks on.
# gvisor: expect memory cpu ; why tasks: its kernel counts none; their memory is the box's, and runs out
import os
while True:
    os.fork()
