# language: python
# expect: ok error
# why: A str subclass may lie about its length.
class S(str):
    def __len__(self):
        return 0
    def encode(self, *a):
        return b'lie'
FINAL(S('text'))
