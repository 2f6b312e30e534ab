# expect: {'a': 1, 'b': 2, 'c': 3} 3 None True 3
class Config:
    def __init__(self, **kwargs):
        for k, v in kwargs.items():
            setattr(self, k, v)
c = Config(a=1, b=2)
c.__dict__.update(c=3)
print(vars(c), c.__dict__["c"], getattr(c, "z", None), hasattr(c, "a"), c.c)
