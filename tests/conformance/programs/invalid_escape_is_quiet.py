# expect: 2
import re
print(len(re.findall("\d{4}", "2024 and 1999")))
