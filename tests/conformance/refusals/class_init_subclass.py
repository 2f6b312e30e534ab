# advice: use a class decorator
class A:
    def __init_subclass__(cls):
        pass
