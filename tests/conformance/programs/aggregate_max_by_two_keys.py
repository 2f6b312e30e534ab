# expect: ('b', 5) [('c', 5), ('a', 3)]
rows = [("a", 3), ("b", 5), ("c", 5)]
rows.sort(key=lambda r: (-r[1], r[0]))
winner, *others = rows
print(winner, others)
