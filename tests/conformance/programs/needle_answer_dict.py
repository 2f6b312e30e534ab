# expect: {'content': '4417093', 'ready': True}
hit = next(line for line in context.splitlines() if "magic" in line)
answer["content"] = hit.split()[-1].rstrip(".")
answer["ready"] = True
print(answer)
