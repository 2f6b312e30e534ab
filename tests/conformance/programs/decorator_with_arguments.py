# expect: ['A', 'A', 'A']
def repeat(n):
    def deco(f):
        def inner(*a):
            return [f(*a) for _ in range(n)]
        return inner
    return deco
@repeat(3)
def hi(x):
    return x.upper()
print(hi("a"))
