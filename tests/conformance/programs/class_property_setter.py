# expect: 0.0 32.0
class Temperature:
    def __init__(self, celsius):
        self._c = celsius
    @property
    def fahrenheit(self):
        return self._c * 9 / 5 + 32
    @fahrenheit.setter
    def fahrenheit(self, f):
        self._c = (f - 32) * 5 / 9
    @staticmethod
    def zero():
        return Temperature(0)
    @classmethod
    def boiling(cls):
        return cls(100)
t = Temperature.boiling()
t.fahrenheit -= 180
print(t._c, Temperature.zero().fahrenheit)
