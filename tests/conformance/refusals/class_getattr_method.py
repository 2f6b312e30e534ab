# advice: keep the values in a dict
class A:
    def __getattr__(self, name):
        return 1
