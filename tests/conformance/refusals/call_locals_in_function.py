# advice: your own dict
def f():
    x = 1
    return locals()
