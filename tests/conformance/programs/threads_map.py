# expect: 8 {'location'}
from concurrent.futures import ThreadPoolExecutor
prompts = [f"Where is place {i} ?" for i in range(8)]
with ThreadPoolExecutor(max_workers=4) as pool:
    results = list(pool.map(llm_query, prompts))
print(len(results), set(results))
