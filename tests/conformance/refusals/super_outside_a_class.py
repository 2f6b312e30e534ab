# advice: inside the methods of a class
def f(self):
    return super().x
