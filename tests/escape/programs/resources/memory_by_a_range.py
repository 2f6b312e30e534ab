# language: both
# expect: error memory
# why: A list of what need not be one.
x = list(range(10**11))
