# language: both
# expect: cpu
# limit: limits.cpu
# why: The plainest of all.
while True:
    pass
