# advice: is not available here
class A:
    pass
A().__class__ = dict
