# language: python
# expect: ok error
# says: still here
# why: A stopped box would wait for ever; the first process of a namespace is not stopped from inside.
# hasty
# gvisor: expect timeout ; limit limits.cell_wall ; why init: its first process is stopped like any other, until the deadline
import os, signal
os.kill(os.getpid(), signal.SIGSTOP)
os.kill(os.getpid(), signal.SIGTSTP)
print("still here")
