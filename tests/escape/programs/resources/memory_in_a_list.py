# language: both
# expect: memory
# limit: memory_bytes
# why: Grows until there is no more.
grown = []
while True:
    grown.append("x" * 1_000_000)
