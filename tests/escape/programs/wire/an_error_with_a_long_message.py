# language: python
# expect: protocol
# use: wire
# why: Texts in headers are short.
error = {"type": "E", "message": "x" * 5000, "line": None}
say(frame({"op": "done", "cell": 1, "status": "error", "error": error, "variables": [], "unlisted": 0}))
time.sleep(30)
