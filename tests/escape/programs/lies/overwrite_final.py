# language: both
# expect: ok
# why: Names are the program's to overwrite; only the wire counts.
# says: given=None
FINAL = lambda value: None
FINAL('nothing')
print('went on')
