# expect: Span(start=2, end=9, length=7) 7
from dataclasses import dataclass, field
@dataclass(frozen=True)
class Span:
    start: int
    end: int
    length: int = field(init=False)
    def __post_init__(self):
        object.__setattr__(self, "length", self.end - self.start)
print(Span(2, 9), Span(2, 9).length)
