# expect: Glasgow 5741750
import csv, io
block = context.split("```csv\n")[1].split("```")[0]
rows = list(csv.DictReader(io.StringIO(block)))
print(rows[0]["city"], sum(int(r["population"]) for r in rows))
