# language: restricted
# expect: ok
# says: exact
# why: A library function calls methods of a program's own str, and gives them what belongs to everybody.
import base64, html, re, shlex, string, textwrap, urllib.parse
class S(str):
    def translate(self, table): escaped(table)
    def encode(self, *args): escaped(args)
    def replace(self, *args): escaped(args)
    def split(self, *args): escaped(args)
    def splitlines(self, *args): escaped(args)
    def expandtabs(self, *args): escaped(args)
    def join(self, parts): escaped(parts)
    def lower(self): escaped(self)
    def __getitem__(self, key): escaped(key)
    def __contains__(self, key): escaped(key)
    def __len__(self): escaped(self)
    def __add__(self, other): escaped(other)
    def __radd__(self, other): escaped(other)
text = S("ab c")
textwrap.fill(text), textwrap.dedent(text), textwrap.indent(text, S("- ")), textwrap.shorten(text, 9, placeholder=text)
textwrap.wrap(text, initial_indent=text)
html.escape(text), html.unescape(text), shlex.quote(text), shlex.split(text), string.capwords(text, S(" "))
urllib.parse.quote(text), urllib.parse.urlparse(text), urllib.parse.parse_qs(text), urllib.parse.urljoin(text, text)
base64.b64encode(b"a"), base64.b64decode(S("YQ==")), base64.b32decode(S("ME======"))
re.compile(text), re.search(text, text), re.sub("a", text, text), re.escape(text), re.split(text, text)
print("exact")
