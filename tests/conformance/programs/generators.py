# expect: [1, 2, 3, 4, 5] 15.0 6
def walk(tree):
    if isinstance(tree, list):
        for t in tree:
            yield from walk(t)
    else:
        yield tree
def averager():
    total = n = 0
    average = None
    while True:
        x = yield average
        total += x
        n += 1
        average = total / n
a = averager()
next(a)
a.send(10)
print(list(walk([1, [2, [3, 4]], 5])), a.send(20), sum(x for x in range(4)))
