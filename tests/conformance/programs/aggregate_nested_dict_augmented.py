# expect:  202 160
stats = {}
for line in context.splitlines():
    if not line.startswith("Date:"):
        continue
    year = line[13:17]
    stats.setdefault(year, {"n": 0, "chars": 0})
    stats[year]["n"] += 1
    stats[year]["chars"] += len(line)
for year in sorted(stats):
    print(year, stats[year]["n"])
