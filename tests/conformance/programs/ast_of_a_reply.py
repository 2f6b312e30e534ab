# expect: ['clean', 'len'] ['x', 'y'] return len(x) + y {'a': [1, (2, None)]}
import ast

REPLY = """
def clean(x: str, y=1):
    'Tidy up.'
    return len(x) + y
print(clean('a'))
"""
tree = ast.parse(REPLY)


class Calls(ast.NodeVisitor):
    def __init__(self):
        self.names = []

    def visit_Call(self, node):
        if isinstance(node.func, ast.Name):
            self.names.append(node.func.id)
        self.generic_visit(node)


calls = Calls()
calls.visit(tree)
for node in ast.walk(tree):
    match node:
        case ast.FunctionDef(name="clean", args=arguments):
            print(node.lineno, ast.get_docstring(node), type(node).__name__)
            names = [argument.arg for argument in arguments.args]
        case ast.Return():
            last = ast.unparse(node)
print(ast.dump(tree.body[1].value.args[0]))
print(sorted(set(calls.names) - {"print"}), names, last, ast.literal_eval("{'a': [1, (2, None)]}"))
