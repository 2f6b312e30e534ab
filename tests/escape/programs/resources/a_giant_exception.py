# language: both
# expect: error
# says: xxxx
# why: Its text is cut before it is sent.
raise ValueError("x" * 20_000_000)
