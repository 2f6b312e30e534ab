# advice: call the built-in function by its name
print(__builtins__)
