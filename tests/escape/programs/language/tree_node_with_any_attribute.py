# language: restricted
# expect: error
# says: cannot make a Name object this way
# why: The constructor of a node sets whatever attributes it is asked to, its class among them.
import ast
class Mine: pass
escaped(ast.Name(**{"__class__": Mine, "__dict__": {}}))
