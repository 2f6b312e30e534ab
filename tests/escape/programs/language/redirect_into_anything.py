# language: restricted
# expect: error
# says: output is redirected to an io.StringIO()
# why: What writes on the program's behalf would call methods of the program's own file.
import contextlib
class File:
    def write(self, text): escaped(text)
with contextlib.redirect_stdout(File()):
    print("x")
