# language: python
# expect: error
# use: wire replies
# says: "count":0
# why: It ends before it begins.
say(frame({"op": "search", "id": 1, "doc": 0, "mode": "find", "start": 900, "stop": 5, "limit": 10, "line": 0}, b"a"))
raise RuntimeError(reply())
