# expect: enough: 50
left = budget()
if left["calls"] is None or left["calls"] > 10:
    print("enough:", left["calls"])
else:
    print("short")
