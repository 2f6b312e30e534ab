# expect: a & b example.com /a/b a%20b
import html
from urllib.parse import urlparse, quote
u = urlparse("https://example.com/a/b?x=1")
print(html.unescape("a &amp; b"), u.netloc, u.path, quote("a b"))
