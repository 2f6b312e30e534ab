# expect: ['aa bb', 'cc dd'] abc X Y
import string
import textwrap
print(textwrap.shorten("The grass is green. The sky is blue.", width=20, placeholder="..."))
print(textwrap.fill("aa bb cc dd", 5).splitlines(), string.ascii_lowercase[:3], string.capwords("x y"))
