# advice: leave them out
class A(object, flag=True):
    pass
