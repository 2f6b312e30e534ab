# advice: derive from abc.ABC
class A(metaclass=object):
    pass
