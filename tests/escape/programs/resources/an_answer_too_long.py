# language: both
# expect: output
# limit: limits.answer
# why: Answers have a limit of their own.
FINAL("x" * 200_000)
