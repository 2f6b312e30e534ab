# expect: 1 ['z'] (1, 2) <0> 4 None
from typing import Dict, List, Tuple, Any, Union, Callable
count: int = 0
names: List[str] = []
later: str
table: Dict[str, Tuple[int, ...]] = {"a": (1, 2)}
def run(f: Callable[[int], str], x: Union[int, None] = None, **kw: Any) -> "str | None":
    result: str = f(x or 0)
    return result
class Node:
    value: int
    next: "Node | None" = None
    def __init__(self, value: int) -> None:
        self.value: int = value
names.append("z")
count += 1
print(count, names, table["a"], run(lambda v: f"<{v}>"), Node(4).value, Node.next)
