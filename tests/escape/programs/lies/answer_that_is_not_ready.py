# language: both
# expect: ok
# why: Only True is ready.
# says: given=None
answer['content'] = 'x'
answer['ready'] = 'yes'
