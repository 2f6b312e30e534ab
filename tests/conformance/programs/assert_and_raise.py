# expect: None ('x',)
try:
    assert 1 == 2, "numbers differ"
except AssertionError as e:
    print(e)
try:
    raise RuntimeError("x") from None
except RuntimeError as e:
    print(e.__cause__, e.args)
