# expect: {"when": "2024-05-17", "tags": ["x"]}
import json, datetime
payload = {"when": datetime.date(2024, 5, 17), "tags": {"x"}}
print(json.dumps(payload, default=lambda o: sorted(o) if isinstance(o, set) else str(o), indent=None))
