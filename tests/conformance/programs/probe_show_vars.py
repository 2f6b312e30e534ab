# expect: total
rows = [1, 2, 3]
total = sum(rows)
print(SHOW_VARS())
