# language: python
# expect: cpu timeout processes error
# why: The refusal is caught and tried again.
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
