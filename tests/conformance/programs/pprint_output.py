# expect: 2
from pprint import pprint, pformat
pprint({"b": 1, "a": [1, 2]})
print(pformat([1, 2, 3], width=5).count("\n"))
