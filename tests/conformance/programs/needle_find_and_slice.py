# expect: One of the special magic numbers for quiet-otter is: 4417093.
pos = context.find("magic number")
start = context.rfind("\n", 0, pos) + 1
end = context.find("\n", pos)
print(context[start:end].strip())
