# language: python
# expect: protocol
# use: wire
# why: Before the beginning.
say(frame({"op": "read", "id": 1, "doc": 0, "start": -1, "stop": 1, "line": 0}))
time.sleep(30)
