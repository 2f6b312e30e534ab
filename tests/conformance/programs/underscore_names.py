# expect: 7 2 8
_tmp = 5
_, second, __ = (1, 2, 3)
for _ in range(2):
    _tmp += 1
_private_helper = lambda _x: _x + _tmp
print(_tmp, second, _private_helper(1))
