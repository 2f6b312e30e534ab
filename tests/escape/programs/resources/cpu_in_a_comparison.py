# language: both
# expect: cpu error memory
# why: Comparing what shares its parts is exponential.
a, b = [], []
for _ in range(60):
    a, b = [a, a], [b, b]
a == b
