# language: python
# expect: ok
# says: environment
# why: The host's environment holds provider keys.
import os
print("environment", dict(os.environ))
if set(os.environ) - {"LC_CTYPE"}:
    escaped(dict(os.environ))
