# language: restricted
# expect: error
# says: works only on its own objects
# why: A library method hands its own functions to an object of the program's that looks like the library's.
import string
class Pattern:
    def sub(self, convert, template): escaped(convert)
class Like:
    pattern = Pattern()
    template = "$a"
string.Template.substitute(Like(), {})
