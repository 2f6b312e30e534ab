# language: restricted
# expect: ok
# why: The agent writes the answer to the wire: a program's own containers would be asked for other contents.
class D(dict):
    def items(self): escaped(self)
class S(str):
    def encode(self, *args): escaped(args)
    def __str__(self): escaped(self)
class I(int):
    def __repr__(self): escaped(self)
class L(list):
    def __iter__(self): escaped(self)
FINAL(D({S("a"): L([S("b"), I(3), D()])}))
