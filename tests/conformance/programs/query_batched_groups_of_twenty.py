# expect: 62 abbreviation
questions = [l.split("Instance: ")[1] for l in context.splitlines() if "Instance: " in l]
label_of = {}
for start in range(0, len(questions), 20):
    group = questions[start:start + 20]
    prompts = ["Label: " + q for q in group]
    label_of.update(zip(group, llm_query_batched(prompts)))
print(len(label_of), sorted(set(label_of.values()))[0])
