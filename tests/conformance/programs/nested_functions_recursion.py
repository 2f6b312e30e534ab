# expect: ([1, 2, 3, 4], 3)
def flatten(x, depth=0):
    def rec(y, d):
        nonlocal depth
        depth = max(depth, d)
        return [z for item in y for z in (rec(item, d + 1) if isinstance(item, (list, tuple)) else [item])]
    return rec(x, 0), depth
print(flatten([1, (2, [3, [4]])]))
