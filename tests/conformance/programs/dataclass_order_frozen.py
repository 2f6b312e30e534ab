# expect: [Span(start=1, end=4), Span(start=5, end=9)] 3 1
from dataclasses import dataclass, FrozenInstanceError
@dataclass(order=True, frozen=True)
class Span:
    start: int
    end: int
    @property
    def length(self) -> int:
        return self.end - self.start
spans = sorted([Span(5, 9), Span(1, 4)])
try:
    spans[0].start = 3
except FrozenInstanceError as e:
    print("frozen:", e)
print(spans, spans[0].length, len({Span(1, 4), Span(1, 4)}))
