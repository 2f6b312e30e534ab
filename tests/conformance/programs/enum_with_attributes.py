# expect: Earth 9.8 ['MERCURY', 'EARTH'] True YES
from enum import Enum
class Planet(Enum):
    MERCURY = (3.303e23, 2.4397e6)
    EARTH = (5.976e24, 6.37814e6)
    def __init__(self, mass, radius):
        self.mass = mass
        self._radius = radius
    @property
    def gravity(self):
        return 6.67430e-11 * self.mass / (self._radius ** 2)
    def __str__(self):
        return self.name.title()
class Label(str, Enum):
    YES = "yes"
    @classmethod
    def _missing_(cls, value):
        return cls.YES
print(Planet.EARTH, round(Planet.EARTH.gravity, 2), [p.name for p in Planet], Label("?") == "yes", Label.YES.upper())
