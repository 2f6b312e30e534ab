# language: python
# expect: protocol
# use: wire
# why: Which cell is over must be said.
say(frame({"op": "done", "status": "ok", "error": None}))
time.sleep(30)
