# language: both
# expect: error
# why: Deep in C: a crash at worst.
x = []
for _ in range(1_000_000):
    x = [x]
repr(x)
