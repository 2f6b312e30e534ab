# advice: public methods
def f():
    pass
f.__globals__
