# language: both
# expect: cpu
# limit: cpu_ms
# why: The plainest of all.
while True:
    pass
