# language: python
# expect: cpu timeout processes error memory
# why: The refusal is caught and tried again; memory may run out first.
# gvisor: expect memory cpu ; why tasks: its kernel counts none; their memory is the box's, and runs out
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
