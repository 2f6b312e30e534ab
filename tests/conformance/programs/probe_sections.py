# expect: 4 End
import re
headers = re.findall(r"^## (.+)$", context, flags=re.MULTILINE)
for i, h in enumerate(headers, 1):
    print(i, h)
