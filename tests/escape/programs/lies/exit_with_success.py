# language: python
# expect: error
# why: Success of a process is not success of a program.
# says: SystemExit
import sys
sys.exit(0)
