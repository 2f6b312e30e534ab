# language: python
# expect: error
# use: wire replies
# says: "count":4000
# why: A null byte ends no pattern.
say(frame({"op": "search", "id": 1, "doc": 0, "mode": "count", "start": 0, "stop": 29000, "limit": 10, "line": 0}, b"\0|e"))
raise RuntimeError(reply())
