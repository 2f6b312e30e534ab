# language: restricted
# expect: error
# says: needs a str, not Like
# why: What has the methods of a str and is none would be given the library's own table.
import textwrap
class S(str):
    def translate(self, table): escaped(table)
class Like:
    def expandtabs(self, size): return S("a")
    def translate(self, table): escaped(table)
textwrap.fill(Like())
