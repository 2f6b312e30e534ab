# expect: {'b': 2} [1, 4] gone
d = {"a": 1, "b": 2}
xs = [1, 2, 3, 4]
del d["a"], xs[1:3]
y = 3
del y
try:
    y
except NameError as e:
    print(d, xs, "gone")
