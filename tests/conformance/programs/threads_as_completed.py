# expect: [('a', 'location'), ('b', 'human being'), ('c', 'numeric value')]
from concurrent.futures import ThreadPoolExecutor, as_completed
tasks = {"a": "Where ?", "b": "Who ?", "c": "How many ?"}
results = {}
with ThreadPoolExecutor() as executor:
    futures = {executor.submit(llm_query, prompt): name for name, prompt in tasks.items()}
    for future in as_completed(futures):
        name = futures[future]
        try:
            results[name] = future.result()
        except Exception as exc:
            results[name] = f"failed: {exc}"
print(sorted(results.items()))
