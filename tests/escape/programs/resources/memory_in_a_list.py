# language: both
# expect: memory
# limit: limits.memory
# why: Grows until there is no more.
grown = []
while True:
    grown.append("x" * 1_000_000)
