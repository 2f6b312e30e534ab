# expect: 1 2 B True B
class A:
    def __init__(self, x):
        self.x = x
class B(A):
    def __init__(self, x, y):
        A.__init__(self, x)
        self.y = y
b = B(1, 2)
print(b.x, b.y, b.__class__.__name__, type(b) is B, B.__name__)
