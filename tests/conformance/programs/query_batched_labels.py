# expect: [('abbreviation', 8), ('entity', 10), ('human being', 2), ('location', 4), ('numeric value', 6)]
questions = [l.split("Instance: ")[1] for l in context.splitlines() if "Instance: " in l]
prompts = [f"Which class is this question?\n{q}" for q in questions[:30]]
labels = llm_query_batched(prompts)
from collections import Counter
counts = Counter(labels)
print(sorted(counts.items()))
