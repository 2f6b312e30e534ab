# expect: {1: 'location', 2: 'numeric value', 3: 'human being'}
questions = ["Where is Glasgow ?", "How many moons ?", "Who is that ?"]
numbered = "\n".join(f"{i}. {q}" for i, q in enumerate(questions, 1))
reply = llm_query("NUMBERED\n" + numbered)
parsed = {}
for line in reply.splitlines():
    num, _, label = line.partition(":")
    if num.strip().isdigit():
        parsed[int(num)] = label.strip()
print(parsed)
