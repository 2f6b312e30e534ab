# language: restricted
# expect: error
# says: works on its own objects only
# why: The `__init__` of an exception written in Python sets attributes of whatever object it is given.
import re, string
re.error.__init__(string.Template, "m", "planted")
escaped(string.Template.pattern)
