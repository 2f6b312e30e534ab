# expect: 3 x
from typing import Generic, TypeVar, Optional
T = TypeVar("T")
class Box(Generic[T]):
    def __init__(self, item: Optional[T] = None) -> None:
        self.item: Optional[T] = item
    def get(self) -> "T":
        return self.item
print(Box[int](3).get(), Box("x").get())
