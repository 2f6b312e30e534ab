# expect: PolicyDenied - no more calls: summarise what you have 10 11
try:
    llm_query("DENY this")
except PolicyDenied as error:
    print(type(error).__name__, "-", error, error.limit, error.observed)
