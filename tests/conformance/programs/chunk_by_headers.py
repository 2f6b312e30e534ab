# expect: End         |True
import re
parts = re.split(r"(?m)^(?=## )", context)
sections = {p.splitlines()[0].lstrip("# "): p for p in parts if p.startswith("## ")}
for name, body in sections.items():
    print(f"{name:<12}|{len(body) > 0}")
