# language: both
# expect: error output
# why: The agent refuses what the wire cannot carry.
FINAL("x" * 3_000_000)
