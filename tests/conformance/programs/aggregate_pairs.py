# expect: 0 True
from itertools import combinations
import re
users = sorted(set(int(u) for u in re.findall(r"User: (\d+)", context)))
pairs = [(a, b) for a, b in combinations(users, 2) if (a + b) % 97 == 0]
print(len(pairs), all(a < b for a, b in pairs))
print("\n".join(f"({a}, {b})" for a, b in pairs[:2]))
