# language: python
# expect: protocol
# use: wire
# why: Lines count from zero.
error = {"type": "E", "message": "x", "line": -1}
say(frame({"op": "done", "cell": 1, "status": "error", "error": error, "variables": [], "unlisted": 0}))
time.sleep(30)
