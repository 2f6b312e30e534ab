# language: python
# expect: protocol
# use: wire
# why: No match at all is no question.
say(frame({"op": "search", "id": 1, "doc": 0, "mode": "find", "start": 0, "stop": 29000, "limit": 0, "line": 0}, b"a"))
time.sleep(30)
