# language: python
# expect: protocol
# use: wire
# why: Which cell is over must be said.
say(frame({"op": "done", "status": "ok", "error": None, "variables": [], "unlisted": 0}))
time.sleep(30)
