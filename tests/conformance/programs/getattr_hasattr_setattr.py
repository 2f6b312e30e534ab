# expect: False ABC False
class O:
    pass
o = O()
setattr(o, "x", 1)
print(getattr(o, "x"), getattr(o, "y", "none"), hasattr([], "__len__"), hasattr(5, "__iter__"), hasattr("s", "upper"))
delattr(o, "x")
print(hasattr(o, "x"), getattr("abc", "upper")(), callable(getattr(o, "missing", None)))
