# expect: Label.LOCATION ENTITY entity True [<Level.LOW: 1>, <Level.HIGH: 2>] 3
from enum import Enum, IntEnum, auto
class Label(Enum):
    ABBREVIATION = "abbreviation"
    ENTITY = "entity"
    LOCATION = "location"
    @classmethod
    def parse(cls, text):
        for member in cls:
            if member.value in text.lower():
                return member
        return None
class Level(IntEnum):
    LOW = 1
    HIGH = auto()
print(Label.parse("a Location!"), Label("entity").name, Label["ENTITY"].value, Level.HIGH > Level.LOW, list(Level), len(Label))
