# language: both
# expect: error
# why: What the program calls success is not asked whether it is.
# says: Leaving
class Code(int):
    def __eq__(self, other): escaped(other)
    def __bool__(self): escaped('asked')
    def __hash__(self): return 0
class Leaving(SystemExit):
    code = property(lambda self: escaped('asked'))
raise Leaving(Code(0))
