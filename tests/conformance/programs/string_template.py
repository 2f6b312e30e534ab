# expect: Hello Ann, 3 items
from string import Template
print(Template("Hello $name, ${n} items").substitute(name="Ann", n=3))
