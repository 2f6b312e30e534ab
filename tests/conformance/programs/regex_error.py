# expect: bad pattern: missing ), unterminated subpattern 0
import re
try:
    re.compile("(")
except re.error as e:
    print("bad pattern:", e.msg, e.pos)
