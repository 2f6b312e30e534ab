# expect: 4 True
lines = context.splitlines()
chunk_size = 50
chunks = ["\n".join(lines[i : i + chunk_size]) for i in range(0, len(lines), chunk_size)]
print(len(chunks), sum(len(c) for c in chunks) + len(chunks) - 1 == len("\n".join(lines)))
