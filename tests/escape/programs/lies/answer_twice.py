# language: both
# expect: ok
# why: The first answer stops the program; the second is never given.
# says: first
try:
    FINAL('first')
except BaseException:
    FINAL('second')
