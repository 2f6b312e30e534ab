# language: python
# expect: protocol
# use: wire
# why: A field that would choose what is searched.
say(frame({"op": "search", "id": 1, "doc": 0, "mode": "find", "start": 0, "stop": 29000, "limit": 10, "line": 0, "folder": "/etc"}, b"root"))
time.sleep(30)
