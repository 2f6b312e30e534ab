# expect: True red Perm.R|W True Color
from enum import StrEnum, Flag, auto
class Color(StrEnum):
    RED = auto()
class Perm(Flag):
    R = auto()
    W = auto()
print(Color.RED == "red", f"{Color.RED}", Perm.R | Perm.W, Perm.R in (Perm.R | Perm.W), type(Color.RED).__name__)
