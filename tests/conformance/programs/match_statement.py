# expect: ['small', 'negative -4', "text 'a'", 'list 1 +1', "user 3 ['z']", 'none', 'other']
def classify(x):
    match x:
        case 0 | 1:
            return "small"
        case int(n) if n < 0:
            return f"negative {n}"
        case str() as s:
            return f"text {s!r}"
        case [first, *rest]:
            return f"list {first} +{len(rest)}"
        case {"type": "user", "id": uid, **others}:
            return f"user {uid} {sorted(others)}"
        case (None):
            return "none"
        case _:
            return "other"
print([classify(v) for v in (1, -4, "a", [1, 2], {"type": "user", "id": 3, "z": 0}, None, 5.5)])
