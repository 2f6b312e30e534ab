# expect: 12,531 characters, 176 lines
print(type(context).__name__, len(context))
print(context[:120])
print(f"{len(context):,} characters, {len(context.splitlines())} lines")
