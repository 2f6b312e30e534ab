# language: python
# expect: error
# why: The process ends with code zero and no answer.
# says: exit code 0
import os
print('{"status": "ok"}', flush=True)
os._exit(0)
