# advice: a dict of your own
def f():
    x = 1
    return locals()
