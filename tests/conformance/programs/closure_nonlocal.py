# expect: 7
def make_counter():
    count = 0
    def step(by=1):
        nonlocal count
        count += by
        return count
    return step
c = make_counter()
c()
c(5)
print(c())
