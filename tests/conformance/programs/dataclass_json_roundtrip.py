# expect: [P(x=1, y=2), P(x=3, y=4)]
import json
from dataclasses import dataclass, asdict
@dataclass
class P:
    x: int
    y: int
text = json.dumps([asdict(P(1, 2)), asdict(P(3, 4))])
print([P(**d) for d in json.loads(text)])
