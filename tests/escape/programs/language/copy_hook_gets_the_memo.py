# language: restricted
# expect: ok
# says: nothing in it
# why: What `__deepcopy__` is given must not hold what was copied before, nor let the program plant a copy.
import copy
class Hook:
    def __deepcopy__(self, memo):
        for value in memo.values(): escaped(value)
        for key in list(memo): memo[key] = {"planted": 1}
        memo[0] = Hook
        return self
import json
made = copy.deepcopy([json, vars, Hook(), {"a": llm_query}])
if made[0] is not json or made[3]["a"] is not llm_query: escaped(made)
print("nothing in it")
