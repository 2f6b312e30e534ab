# language: python
# expect: error
# use: wire replies
# says: "count":0
# why: Characters that do not exist are not searched.
say(frame({"op": "search", "id": 1, "doc": 0, "mode": "find", "start": 9007199254740991, "stop": 9007199254740991, "limit": 10, "line": 0}, b"a"))
raise RuntimeError(reply())
