# expect: Creme Brulee No5 Lu
import unicodedata
s = "Crème Brûlée №5"
plain = "".join(c for c in unicodedata.normalize("NFKD", s) if not unicodedata.combining(c))
print(plain, unicodedata.category("A"))
