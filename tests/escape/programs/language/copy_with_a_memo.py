# language: restricted
# expect: error
# why: A memo of the program's own would be handed the insides of what is copied.
import copy
class Keep:
    def append(self, value): escaped(value)
class Memo:
    def get(self, key, default): return default
    def __setitem__(self, key, value): escaped(value)
    def __getitem__(self, key): return Keep()
copy.deepcopy(llm_query, Memo())
import random
copy.deepcopy(random.getstate, Memo())
raise ValueError("nothing was handed out")
