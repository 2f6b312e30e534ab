# language: both
# expect: rejected
# why: What cannot be compiled is told, with its line, and runs nothing.
print("a")
escaped(
