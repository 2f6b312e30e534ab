# language: python
# expect: error
# why: A signal of one's own is no limit.
# says: signal 6
import os
os.abort()
