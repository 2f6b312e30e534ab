# language: both
# expect: ok
# says: truncated=True
# why: What is over the limit is counted; of that only the end is kept.
for number in range(20_000):
    print(number, "x" * 40)
