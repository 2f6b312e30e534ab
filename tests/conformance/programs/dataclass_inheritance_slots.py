# expect: B(x=1, y=2) (5, 2) C(z=8) True
from dataclasses import dataclass, astuple
@dataclass
class A:
    x: int = 1
@dataclass
class B(A):
    y: int = 2
@dataclass(slots=True)
class C:
    z: int
    def double(self):
        self.z *= 2
        return self
print(B(), astuple(B(5)), C(4).double(), B(1) == B(1, 2))
