# advice: use json.loads for data
eval("1 + 1")
