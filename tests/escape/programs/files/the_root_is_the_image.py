# language: python
# expect: ok
# says: ['dev', 'lib', 'lib64', 'tmp', 'usr']
# why: Whatever else is in the root came from the host.
import os
print(sorted(os.listdir("/")), sorted(os.listdir("/dev")), os.listdir("/tmp"))
if sorted(os.listdir("/dev")) != ["null", "urandom", "zero"] or os.listdir("/tmp"):
    escaped("more than the image")
