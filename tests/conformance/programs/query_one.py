# expect: location
reply = llm_query("Classify this question: Where is Glasgow ?")
print(reply)
