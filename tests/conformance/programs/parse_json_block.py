# expect: {"n": 2, "total": 49.25}
import json
start = context.index("{\"orders\"")
data = json.loads(context[start:context.index("\n", start)])
total = sum(o["qty"] * o["price"] for o in data["orders"])
print(json.dumps({"total": round(total, 2), "n": len(data["orders"])}, sort_keys=True))
