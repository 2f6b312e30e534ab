# expect: base c size 2 base g size 3 True True
class Base:
    def __init__(self, name):
        self.name = name
    def describe(self):
        return f"base {self.name}"
class Child(Base):
    def __init__(self, name, size):
        super().__init__(name)
        self.size = size
    def describe(self):
        return super().describe() + f" size {self.size}"
class GrandChild(Child):
    def __init__(self):
        super(GrandChild, self).__init__("g", 3)
print(Child("c", 2).describe(), GrandChild().describe(), issubclass(GrandChild, Base), isinstance(GrandChild(), Child))
