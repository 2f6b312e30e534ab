# language: python
# expect: protocol
# use: wire
# why: A mode of one's own.
say(frame({"op": "search", "id": 1, "doc": 0, "mode": "sub", "start": 0, "stop": 29000, "limit": 10, "line": 0}, b"a"))
time.sleep(30)
