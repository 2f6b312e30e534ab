# expect: ccc
from typing import Protocol, runtime_checkable
class Scorer(Protocol):
    def score(self, text: str) -> float: ...
class Length:
    def score(self, text: str) -> float:
        return float(len(text))
def best(items: list[str], scorer: Scorer) -> str:
    return max(items, key=scorer.score)
print(best(["a", "ccc", "bb"], Length()))
