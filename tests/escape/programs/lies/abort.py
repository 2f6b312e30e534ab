# language: python
# expect: error
# why: A signal of one's own is no limit.
import os
os.abort()
