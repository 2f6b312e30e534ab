# expect: ['name,n', '"x, y",1', 'z,2']
import csv
import io
buf = io.StringIO()
writer = csv.writer(buf)
writer.writerow(["name", "n"])
writer.writerows([["x, y", 1], ["z", 2]])
print(buf.getvalue().splitlines())
