# expect: True child
parts = [context[i:i+4000] for i in range(0, len(context), 4000)]
answers = rlm_query_batched([f"Count the questions in part {i}" for i in range(len(parts))], parts)
print(len(answers) == len(parts), rlm_query("What is in it?", context[:100])[:5])
