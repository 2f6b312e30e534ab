# expect: Finding(text='hit', score=0.9500000000000001, tags=['x']) {'text': 'hit', 'score': 0.9500000000000001, 'tags': ['x']} 1.0
from dataclasses import dataclass, field, asdict, replace
@dataclass
class Finding:
    text: str
    score: float = 0.0
    tags: list = field(default_factory=list)
    def __post_init__(self):
        self.text = self.text.strip()
f = Finding("  hit ", 0.9)
f.tags.append("x")
f.score += 0.05
print(f, asdict(f), replace(f, score=1.0).score)
