# expect: FINAL: 20 users; busiest 12877 with 14
import json, re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

@dataclass
class UserStats:
    user: str
    labels: Counter = field(default_factory=Counter)
    first_seen: str = ""

    @property
    def total(self) -> int:
        return sum(self.labels.values())

stats: dict[str, UserStats] = {}
pattern = re.compile(r"^Date: (?P<date>.+?) \|\| User: (?P<user>\d+) \|\| Instance: (?P<q>.+)$", re.M)
for m in pattern.finditer(context):
    entry = stats.setdefault(m["user"], UserStats(m["user"]))
    entry.labels[llm_query(m["q"])] += 1
    entry.first_seen = entry.first_seen or m["date"]

ranking = sorted(stats.values(), key=lambda s: (-s.total, s.user))
report = {s.user: {"total": s.total, "top": s.labels.most_common(1)[0][0]} for s in ranking[:3]}
print(json.dumps(report, indent=2))
FINAL(f"{len(stats)} users; busiest {ranking[0].user} with {ranking[0].total}")
