# advice: define a property with a setter
class A:
    def __setattr__(self, name, value):
        pass
