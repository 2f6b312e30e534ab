# language: restricted
# expect: error
# says: a tree can only hold nodes and constants, not Name
# why: The library's printer of trees reads and calls whatever it finds in one.
import ast
class Name:
    _fields = ("gi_frame", "__globals__")
    @property
    def id(self): escaped("asked by the library")
    def __eq__(self, other): escaped(other)
    __hash__ = None
tree = ast.parse("x")
tree.body.append(Name())
assert len([*ast.walk(tree)]) == 4
ast.unparse(tree)
