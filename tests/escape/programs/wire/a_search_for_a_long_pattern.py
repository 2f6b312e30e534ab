# language: python
# expect: error
# use: wire replies
# says: is over the limit of 65536
# refused: search.pattern
# why: A pattern larger than any that was written by hand.
say(frame({"op": "search", "id": 1, "doc": 0, "mode": "find", "start": 0, "stop": 29000, "limit": 10, "line": 0}, b"a" * 70000))
raise RuntimeError(reply())
