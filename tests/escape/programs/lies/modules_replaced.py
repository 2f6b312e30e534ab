# language: python
# expect: ok error protocol timeout
# why: The same with modules.
# hasty
import json, sys, traceback
for name in list(sys.modules):
    sys.modules[name] = None
json.dumps = traceback.TracebackException = None
raise ValueError('x')
