# language: python
# expect: error
# why: SIGXCPU from oneself is no use of CPU time.
import os, signal
signal.signal(signal.SIGXCPU, signal.SIG_DFL)
os.kill(1, signal.SIGXCPU)
os.abort()
