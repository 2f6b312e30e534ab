# expect: ['a', 'b', 'c']
import heapq
from dataclasses import dataclass, field
@dataclass(order=True)
class Task:
    priority: int
    name: str = field(compare=False)
heap = []
for p, n in [(3, "c"), (1, "a"), (2, "b")]:
    heapq.heappush(heap, Task(p, n))
print([heapq.heappop(heap).name for _ in range(3)])
