# language: python
# expect: protocol
# use: wire
# why: The agent says how a cell ended, in four words.
say(frame({"op": "done", "cell": 1, "status": "admin", "error": None, "variables": []}))
time.sleep(30)
