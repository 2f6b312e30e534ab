# language: both
# expect: cpu
# limit: cpu_ms
# why: A pattern that backtracks.
import re
re.match("(a+)+$", "a" * 64 + "b")
