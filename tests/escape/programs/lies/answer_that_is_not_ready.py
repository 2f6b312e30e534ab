# language: both
# expect: ok
# why: Only True is ready.
# says: answer=None
answer['content'] = 'x'
answer['ready'] = 'yes'
