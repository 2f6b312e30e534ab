# expect: [[0, 0, 0], [0, 1, 2], [0, 2, 4]] [('x', 2), ('y', 2)]
words = ["apple", "bob", "kayak"]
print([w for w in words if w == w[::-1]], {w: len(w) for w in words}, {len(w) for w in words})
print([[i * j for j in range(3)] for i in range(3)], [(a, b) for a in "xy" for b in (1, 2) if b > 1])
