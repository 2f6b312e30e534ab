# expect: 3 items
data = [3, 8, 1]
print([y for x in data if (y := x * 2) > 4], y)
if (n := len(data)) > 2:
    print(f"{n} items")
