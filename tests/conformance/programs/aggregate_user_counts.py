# expect: Most frequent user: 12877 (14 times)
import re
from collections import Counter
users = Counter(re.findall(r"User: (\d+)", context))
user, n = users.most_common(1)[0]
print(f"Most frequent user: {user} ({n} times)")
