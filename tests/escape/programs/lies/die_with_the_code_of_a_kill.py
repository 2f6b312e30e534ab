# language: python
# expect: error
# why: 137 proves nothing.
# says: exit code 137
import os
os._exit(137)
