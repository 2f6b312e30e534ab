# expect: ['a', 'b', 'c', 'D'] True
import re
print(re.split(r"\s*[,;]\s*", "a , b;c,D", flags=re.I), bool(re.fullmatch(r"(?i)ABC", "abc")))
