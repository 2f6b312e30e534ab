# language: python
# expect: ok error
# why: Signals with handlers of the program's own, without an end.
import os, signal
for number in range(1, 65):
    try:
        signal.signal(number, lambda *_: None)
    except (OSError, ValueError):
        pass
for number in range(1, 65):
    try:
        os.kill(1, number)
    except OSError:
        pass
print("still here")
