# expect: a has 3 (12.5%) v     x|y    |
print("%s has %d (%.1f%%)" % ("a", 3, 12.5), "%(k)s" % {"k": "v"}, "%5s|%-5s|" % ("x", "y"))
