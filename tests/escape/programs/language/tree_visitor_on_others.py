# language: restricted
# expect: error
# says: works only on its own objects
# why: A visitor's methods, taken from the class, look for methods of another's object by name.
import ast, threading
class Node: pass
class Like:
    def visit(self, node): escaped(node)
ast.NodeVisitor.generic_visit(Like(), ast.parse("x"))
