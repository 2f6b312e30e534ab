# expect: a\.b\(c\) 1
import re
needle = "a.b(c)"
print(re.escape(needle), len(re.findall(re.escape(needle), "a.b(c) axb(c)")))
