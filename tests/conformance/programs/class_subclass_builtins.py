# expect: [1, 2] {'a': [1]} True
class Stack(list):
    def push(self, x):
        self.append(x)
        return self
class Default(dict):
    def __missing__(self, key):
        self[key] = value = []
        return value
d = Default()
d["a"].append(1)
print(Stack().push(1).push(2), dict(d), isinstance(d, dict))
