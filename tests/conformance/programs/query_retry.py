# expect: human being
def ask(prompt, tries=3):
    last = None
    for attempt in range(tries):
        try:
            return llm_query(prompt)
        except (ModelError, QuotaExceeded) as e:
            last = e
            print("attempt", attempt, "failed:", e)
    raise last

print(ask("Who discovered radium ?"))
