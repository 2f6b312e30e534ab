# language: python
# expect: error
# why: Output is what went over the wire.
# says: still told
import io, sys
sys.stdout = io.StringIO()
print('nowhere')
raise ValueError('still told')
