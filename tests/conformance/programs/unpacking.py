# expect: 1 2 [3, 4] 5 6 7 8 [3, 4, 0, 1] {'a': 1, 'b': 2} ('h', 'i') 2 1
a, (b, *c), d = 1, (2, 3, 4), 5
[e, f], g = [6, 7], 8
for i, (k, v) in enumerate({"x": 1}.items()):
    print(i, k, v)
x, y = y, x = 1, 2
print(a, b, c, d, e, f, g, [*c, *range(2)], {**{"a": 1}, "b": 2}, (*"hi",), x, y)
