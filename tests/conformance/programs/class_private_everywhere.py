# expect: special ab:2 1 1
class Registry:
    _known = {}
    _count: int = 0
    def __init__(self, name):
        self._name = name
        self.__secret = len(name)
        type(self)._count += 1
        Registry._known[name] = self
    @classmethod
    def _find(cls, name):
        return cls._known.get(name)
    def _describe(self):
        return f"{self._name}:{self.__secret}"
class Special(Registry):
    def _describe(self):
        return "special " + super()._describe()
Special("ab")
print(Registry._find("ab")._describe(), Special._count, getattr(Special, "_count"))
