# language: both
# expect: output
# limit: answer.too_long
# why: Answers have a limit of their own.
FINAL("x" * 200_000)
