# expect: 00abc b'\xc3\xa9' é tab x ['a', 'b'] True bbc
s = "  Hello, World  "
print(s.strip().lower().split(", "), s[::-1].strip()[:3], s.strip().title().swapcase(), "x".join("abc"), "a-b".partition("-"))
print("abc".zfill(5), "é".encode("utf-8"), b"\xc3\xa9".decode(), "tab\tx".expandtabs(4), "a\nb".splitlines(), "x" in "xyz", "abc".translate(str.maketrans("a", "b")))
