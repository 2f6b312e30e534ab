# language: both
# expect: error
# why: An interrupt that nobody ordered is no timeout.
raise KeyboardInterrupt
