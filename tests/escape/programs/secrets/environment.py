# language: python
# expect: ok
# says: environment
# why: The host's environment holds provider keys.
import os
print("environment", dict(os.environ))
if os.environ:
    escaped(dict(os.environ))
