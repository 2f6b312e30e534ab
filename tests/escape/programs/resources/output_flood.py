# language: both
# expect: output
# limit: output.flood
# why: More output than anybody reads.
while True:
    print("x" * 10_000)
