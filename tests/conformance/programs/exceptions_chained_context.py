# expect: True True KeyError('missing')
import traceback
def inner():
    return {}["missing"]
try:
    inner()
except Exception as e:
    text = traceback.format_exc()
    print("KeyError" in text, "inner" in text, repr(e))
