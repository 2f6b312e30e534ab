# expect: hello from Outer 10
class Mixin:
    def hello(self):
        return f"hello from {type(self).__name__}"
class Outer(Mixin):
    class Inner:
        value = 5
    def inner(self):
        return self.Inner().value + Outer.Inner.value
print(Outer().hello(), Outer().inner())
