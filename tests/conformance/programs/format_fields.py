# expect: pen 7 9 cup
class Item:
    def __init__(self, name):
        self.name = name
print("{0.name} {1[key]} {2[0]} {x.name}".format(Item("pen"), {"key": 7}, [9], x=Item("cup")))
