# expect: {2, 3} {1, 2, 3, 4} {1} {1, 4} False {1: 'x', 2: 'y'} {'a': 0, 'b': 0} [('k', 1)]
a, b = {1, 2, 3}, {2, 3, 4}
print(a & b, a | b, a - b, a ^ b, a <= b, {1: "x"} | {2: "y"}, dict.fromkeys("ab", 0), list({"k": 1}.items()))
