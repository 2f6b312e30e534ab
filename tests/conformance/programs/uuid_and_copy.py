# expect: {'x': [1, 2]} {'x': [1, 2, 3]} 36 5
import copy, uuid
a = {"x": [1, 2]}
b, c = copy.deepcopy(a), copy.copy(a)
a["x"].append(3)
print(b, c, len(str(uuid.uuid4())), uuid.uuid5(uuid.NAMESPACE_DNS, "x").version)
