# language: both
# expect: cpu
# limit: limits.cpu
# why: One operation that takes for ever.
x = 7 ** 9_000_000
for _ in range(1000):
    x * x
