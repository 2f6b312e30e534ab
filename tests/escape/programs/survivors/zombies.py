# language: python
# expect: ok
# says: started
# why: Nobody reaps them; they end with the namespace.
import os
for _ in range(15):
    if os.fork() == 0:
        os._exit(0)
print("started")
