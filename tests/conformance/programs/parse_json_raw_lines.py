# expect: 3 True
import json
records, bad = [], 0
for line in context.splitlines():
    try:
        records.append(json.loads(line))
    except ValueError:
        bad += 1
print(len([r for r in records if isinstance(r, dict)]), bad > 100)
