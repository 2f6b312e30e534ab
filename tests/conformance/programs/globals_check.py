# expect: known True ['append']
result_cache = {"x": 1}
if "result_cache" in globals() and "nothing" not in locals():
    print("known", "context" in dir(), [n for n in dir([]) if n.startswith("app")])
