# expect: ['a,b', '1,2']
import csv
from io import StringIO
out = StringIO()
w = csv.DictWriter(out, fieldnames=["a", "b"], extrasaction="ignore")
w.writeheader()
w.writerow({"a": 1, "b": 2, "c": 3})
print(out.getvalue().split())
