# language: python
# expect: protocol
# use: wire
# why: The agent says how a cell ended, in four words.
say(frame({"op": "done", "cell": 1, "status": "admin", "error": None, "variables": [], "unlisted": 0}))
time.sleep(30)
