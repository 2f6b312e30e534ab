# expect: [('a', 2), ('b', 2), ('c', 1)] 8
items = [("b", 2), ("a", 2), ("c", 1)]
print(sorted(items, key=lambda t: (-t[1], t[0])), (lambda x, *, y=2: x * y)(4))
