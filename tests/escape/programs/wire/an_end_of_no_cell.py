# language: python
# expect: protocol
# use: wire
# why: Which cell is over must be said.
say(frame({"op": "done", "status": "ok", "error": None, "variables": []}))
time.sleep(30)
