# language: python
# expect: protocol
# use: wire
# why: Before the first character.
say(frame({"op": "search", "id": 1, "doc": 0, "mode": "find", "start": -1, "stop": 29000, "limit": 10, "line": 0}, b"a"))
time.sleep(30)
