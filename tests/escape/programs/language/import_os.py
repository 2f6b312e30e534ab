# language: restricted
# expect: rejected error
# why: The obvious.
import os
escaped(os.listdir("/"))
