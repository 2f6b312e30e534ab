# language: both
# expect: cpu
# limit: limits.cpu
# why: A pattern that backtracks.
import re
re.match("(a+)+$", "a" * 64 + "b")
