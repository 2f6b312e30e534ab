# language: restricted
# expect: ok
# says: its own
# why: A copy made by a program's `__new__` would get attributes that nobody has seen, whatever `__new__` returns.
import copy, json
class Source:
    def __new__(cls, *args): return json
s = object.__new__(Source)
s.loads = "planted"
made = copy.copy(s)
copy.deepcopy(s)
if json.loads == "planted" or type(made) is not Source: escaped(made)
print("its own")
