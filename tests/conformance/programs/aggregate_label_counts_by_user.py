# expect: 97239 {'abbreviation': 2, 'entity': 2, 'location': 2}
import re
from collections import defaultdict
by_user = defaultdict(lambda: defaultdict(int))
for user, q in re.findall(r"User: (\d+) \|\| Instance: (.+)", context):
    by_user[user][llm_query(q)] += 1
best = max(by_user, key=lambda u: (by_user[u]["location"], u))
print(best, dict(sorted(by_user[best].items())))
