# language: both
# expect: output
# limit: limits.output_flood
# why: More output than anybody reads.
while True:
    print("x" * 10_000)
