# language: both
# expect: error memory
# why: The same in the old spelling, and in an f-string.
width = 1 << 33
x = "%*d" % (width, 1)
y = f"{1:>{width}}"
