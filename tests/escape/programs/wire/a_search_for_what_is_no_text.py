# language: python
# expect: protocol
# use: wire
# why: A pattern that is not UTF-8.
say(frame({"op": "search", "id": 1, "doc": 0, "mode": "find", "start": 0, "stop": 29000, "limit": 10, "line": 0}, b"\xff\xfe("))
time.sleep(30)
