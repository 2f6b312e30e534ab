# expect: 2 9 Node
import copy
class Node:
    def __init__(self, v, kids=()):
        self.v, self.kids = v, list(kids)
n = Node(1, [Node(2)])
m = copy.deepcopy(n)
m.kids[0].v = 9
print(n.kids[0].v, m.kids[0].v, type(m).__name__)
