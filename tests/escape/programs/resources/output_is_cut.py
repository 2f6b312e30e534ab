# language: both
# expect: ok
# says: truncated=True
# why: What is over the limit is counted, not kept.
for number in range(20_000):
    print(number, "x" * 40)
