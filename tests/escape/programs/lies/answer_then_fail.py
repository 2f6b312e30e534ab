# language: both
# expect: ok
# why: The answer is out, whatever comes after it.
# says: first
try:
    FINAL('first')
finally:
    raise ValueError('after')
