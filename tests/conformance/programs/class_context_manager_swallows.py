# expect: after
class Quiet:
    def __enter__(self):
        return self
    def __exit__(self, kind, error, tb):
        print("swallowed", kind.__name__, error)
        return True
with Quiet():
    raise ValueError("oops")
print("after")
