# language: restricted
# expect: error
# says: __name__ must be a plain string
# why: The agent shows the names of classes: a name of a program's own str would have its methods called.
class S(str):
    def __getitem__(self, key): return {"forged": True}
class Own(Exception): pass
Own.__name__ = S("x")
escaped(Own.__name__)
