# expect: context is one text
if isinstance(context, str):
    kind = "one text"
elif isinstance(context, list):
    kind = f"list of {len(context)}"
else:
    kind = f"{type(context)}"
print("context is", kind)
