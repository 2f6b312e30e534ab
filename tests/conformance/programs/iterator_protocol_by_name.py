# expect: ['a', 'b'] y 1
it = iter(["a", "b", ""])
print(list(iter(it.__next__, "")), max({"x": 1, "y": 3}, key={"x": 1, "y": 3}.__getitem__), "a".__len__())
