# expect: 2022-01 2 47
import re
from collections import OrderedDict
from datetime import datetime
months = OrderedDict()
for d in re.findall(r"Date: (\w{3} \d{2}, \d{4})", context):
    key = datetime.strptime(d, "%b %d, %Y").strftime("%Y-%m")
    months[key] = months.get(key, 0) + 1
first = min(months)
print(first, months[first], len(months))
