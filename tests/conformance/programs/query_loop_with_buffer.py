# expect: True
buffers = []
lines = [l for l in context.splitlines() if "Instance:" in l]
for i in range(0, len(lines), 60):
    chunk = "\n".join(lines[i:i+60])
    summary = llm_query(f"Summarize the following part ({i // 60 + 1}):\n{chunk}")
    buffers.append(summary)
    print(f"part {i // 60 + 1} done")
final = llm_query("Summarize:\n" + "\n".join(buffers))
print(final.startswith("Summary"))
