# language: restricted
# expect: error
# says: works only on its own objects
# why: The `__init__` of an exception written in Python sets attributes of whatever object it is given.
import re, string
re.error.__init__(string.Template, "m", "planted")
escaped(string.Template.pattern)
