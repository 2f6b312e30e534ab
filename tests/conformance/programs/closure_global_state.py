# expect: 2 [7, 5]
calls = 0
log = []
def ask(p):
    global calls
    calls += 1
    log.append(len(p))
    return llm_query(p)
for q in ("Where ?", "Who ?"):
    ask(q)
print(calls, log)
