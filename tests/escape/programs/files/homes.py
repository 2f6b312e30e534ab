# language: python
# expect: ok
# use: tries
# says: ENOENT
# why: Nobody has a home here.
import os
tries(*(lambda path=path: os.listdir(path) for path in ("/root", "/home", "/var", "/mnt", "/run", "/boot", "/opt")))
