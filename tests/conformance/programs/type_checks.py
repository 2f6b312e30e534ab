# expect: True True True True ValueError
values = [1, "a", None, [], {}, 2.5, (1,), {1}, b"x", True, len, lambda: 0]
print([type(v).__name__ for v in values])
print(type(1) is int, type("a") == str, type([]) in (list, tuple), isinstance(None, type(None)), type(ValueError("x")).__name__)
