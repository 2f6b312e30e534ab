# language: python
# expect: error
# use: wire replies
# says: line 999: the grass is green
# why: As many lines as there are numbers.
say(frame({"op": "search", "id": 1, "doc": 0, "mode": "lines", "start": 999, "stop": 9007199254740991, "limit": 1, "line": 0}, b""))
raise RuntimeError(reply())
