# expect: [1, 2, 4, 6]
class Node:
    __slots__ = ["value", "left", "right"]
    def __init__(self, value):
        self.value, self.left, self.right = value, None, None
def insert(node, value):
    if node is None:
        return Node(value)
    if value < node.value:
        node.left = insert(node.left, value)
    else:
        node.right = insert(node.right, value)
    return node
def walk(node):
    if node:
        yield from walk(node.left)
        yield node.value
        yield from walk(node.right)
root = None
for v in (4, 2, 6, 1):
    root = insert(root, v)
print(list(walk(root)))
