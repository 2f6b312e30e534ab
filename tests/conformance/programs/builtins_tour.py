# expect: True True True none slice(1, 3, None) (1+2j) 3.14
print(abs(-2), bin(5), oct(8), hex(255), chr(65), ord("a"), divmod(7, 2), pow(2, 5, 7), round(2.567, 1))
print(sorted({3: 1, 1: 2}), list(reversed("abc")), any([0, 1]), all([]), min(3, 1), max([4, 2], default=0))
print(list(filter(None, [0, 1])), list(zip("ab", [1, 2])), tuple(map(int, "12")), frozenset([1]), bytes([65]), bytearray(b"x"))
print(callable(len), isinstance(True, int), issubclass(bool, int), next(iter([]), "none"), slice(1, 3), complex(1, 2), format(3.14159, ".2f"))
