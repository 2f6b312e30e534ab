# language: python
# expect: protocol
# use: wire
# why: Identity is the stream; a field that claims one is unknown.
say(frame({"op": "read", "id": 1, "doc": 0, "start": 0, "stop": 10, "line": 0, "tenant": "rival"}))
time.sleep(10)
