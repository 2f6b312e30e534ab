# language: python
# expect: protocol
# use: wire
# why: A document is a small number.
say(frame({"op": "read", "id": 1, "doc": 1024, "start": 0, "stop": 1, "line": 0}))
time.sleep(30)
