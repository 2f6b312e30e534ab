# language: both
# expect: ok
# why: Nor does running into a limit.
# says: first
try:
    FINAL('first')
finally:
    while True:
        pass
