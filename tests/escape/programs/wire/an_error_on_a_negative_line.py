# language: python
# expect: protocol
# use: wire
# why: Lines count from zero.
say(frame({"op": "done", "cell": 1, "status": "error", "error": {"type": "E", "message": "x", "line": -1}, "variables": []}))
time.sleep(30)
