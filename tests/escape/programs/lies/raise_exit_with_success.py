# language: both
# expect: ok
# why: The same without an import, and with a code that only says that it is none.
# says: still here
kept = 'still here'
class Code(int):
    def __eq__(self, other): escaped(other)
    def __bool__(self): escaped('asked')
    def __hash__(self): return 0
class Leaving(SystemExit):
    code = property(lambda self: 0)
try:
    raise Leaving(3)
except SystemExit:
    pass
raise SystemExit(0)
#%%
print(kept)
