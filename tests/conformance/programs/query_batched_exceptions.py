# expect: 2/2 ok
results = llm_query_batched(["Where is Rome ?", "Who wrote it ?"], return_exceptions=True)
good = [r for r in results if not isinstance(r, Exception)]
print(f"{len(good)}/{len(results)} ok")
