# language: python
# expect: ok error protocol
# why: An agent without its streams still says how it ended.
import sys
sys.stdout.flush = sys.stderr.flush = None
print('x')
