# expect: (1, 2, (3,), 9, [('d', 4)]) (1, 2, (), 3, []) ((1,), {'x': 2})
def f(a, /, b, *args, c=3, **kw):
    return a, b, args, c, sorted(kw.items())
args, kw = (1, 2, 3), {"c": 9, "d": 4}
print(f(*args, **kw), f(1, b=2), (lambda *a, **k: (a, k))(1, x=2))
