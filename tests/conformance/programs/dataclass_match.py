# expect: ['many users 9', 'users 1', 'other', '?']
from dataclasses import dataclass
@dataclass
class Hit:
    kind: str
    n: int
def show(h):
    match h:
        case Hit("user", n) if n > 5:
            return f"many users {n}"
        case Hit(kind="user", n=n):
            return f"users {n}"
        case Hit():
            return "other"
        case _:
            return "?"
print([show(x) for x in (Hit("user", 9), Hit("user", 1), Hit("x", 1), 3)])
