# language: python
# expect: error
# use: wire replies
# says: RE2 does not accept this pattern
# refused: search.pattern
# why: Repetitions of repetitions grow beyond the memory of a pattern.
say(frame({"op": "search", "id": 1, "doc": 0, "mode": "find", "start": 0, "stop": 29000, "limit": 10, "line": 0}, b"((a{100}){100}){100}"))
raise RuntimeError(reply())
