# expect: 20 14
from itertools import groupby
rows = sorted((l.split(" || ") for l in context.splitlines() if l.startswith("Date:")), key=lambda r: r[1])
sizes = {k: len(list(g)) for k, g in groupby(rows, key=lambda r: r[1])}
print(len(sizes), max(sizes.values()))
