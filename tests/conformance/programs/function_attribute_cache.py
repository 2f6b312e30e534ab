# expect: [4, 9, 4] 2
def slow(x):
    if x not in slow.cache:
        slow.cache[x] = x ** 2
        slow.misses += 1
    return slow.cache[x]
slow.cache = {}
slow.misses = 0
print([slow(i) for i in (2, 3, 2)], slow.misses)
