# language: python
# expect: ok
# says: started
# why: Nobody reaps them; they end with the namespace.
import os
for _ in range(6):  # each costs a tenth of the box's second of processor time under gVisor, on a slow machine
    if os.fork() == 0:
        os._exit(0)
print("started")
