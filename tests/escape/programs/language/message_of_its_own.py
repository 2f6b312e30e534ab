# language: restricted
# expect: error
# says: Own
# why: The agent cuts an exception's message: a message of a program's own str could be anything.
class S(str):
    def __getitem__(self, key): escaped(key)
    def encode(self, *args): escaped(args)
class Own(Exception):
    def __str__(self): return S("mine")
raise Own
