# expect: x=3 3.14 12,345 50.000000%    'q'
row = {"name": "x", "n": 3}
print("{} and {1}".replace("{1}", "{}").format("a", "b"), "{0}-{0}-{1}".format(1, 2), "{name:>5}|{n:03d}".format(**row))
print("{name}={n}".format_map(row), "{:.2f} {:,} {:%}".format(3.14159, 12345, 0.5), "{!r:>6}".format("q"))
