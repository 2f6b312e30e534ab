# expect: True True True
import string
import unicodedata

print(
    unicodedata.normalize("NFD", context) == unicodedata.normalize("NFD", str(context)),
    string.Template(context).safe_substitute() == string.Template(str(context)).safe_substitute(),
    "".join(part for part in (context[:3], context[3:6])) == context[:6],
)
