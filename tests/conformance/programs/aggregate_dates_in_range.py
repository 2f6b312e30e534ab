# expect: 160 42 2022-01-12
import re
from datetime import datetime
dates = [datetime.strptime(d, "%b %d, %Y") for d in re.findall(r"Date: (\w{3} \d{2}, \d{4})", context)]
lo, hi = datetime(2023, 1, 1), datetime(2023, 12, 31)
print(len(dates), sum(lo <= d <= hi for d in dates), min(dates).date())
