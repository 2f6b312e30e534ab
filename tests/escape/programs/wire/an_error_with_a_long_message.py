# language: python
# expect: protocol
# use: wire
# why: Texts in headers are short.
say(frame({"op": "done", "cell": 1, "status": "error", "error": {"type": "E", "message": "x" * 5000, "line": None}, "variables": []}))
time.sleep(30)
