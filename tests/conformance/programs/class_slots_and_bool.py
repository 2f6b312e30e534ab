# expect: 5.0 -3 -4
class Point:
    __slots__ = ("x", "y")
    def __init__(self, x, y):
        self.x, self.y = x, y
    def __abs__(self):
        return (self.x ** 2 + self.y ** 2) ** 0.5
    def __neg__(self):
        return Point(-self.x, -self.y)
    def __iter__(self):
        yield self.x
        yield self.y
x, y = -Point(3, 4)
print(abs(Point(3, 4)), x, y)
