# expect: ['date', 'instance', 'user']
record = {}
line = next(l for l in context.splitlines() if l.startswith("Date:"))
for field in line.split(" || "):
    key, _, value = field.partition(": ")
    record[key.lower()] = value
print(sorted(record))
