# advice: ask a model with llm_query
name = input("name? ")
