# expect: ['get', 'get'] 7 [7, 0]
calls = []
class Box:
    def __init__(self):
        self.n = 1
        self.items = [0, 0]
box = Box()
def get():
    calls.append("get")
    return box
def step():
    box.n = 100
    return 5
get().n += 1
get().items[len(calls) - 2] += 7
box.n += step()
print(calls, box.n, box.items)
