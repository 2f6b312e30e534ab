# language: python
# expect: protocol
# use: wire
# why: A document's name has no place in any sentence.
say(frame({"op": "read", "id": 1, "doc": "{{rival}}", "start": 0, "stop": 10, "line": 0}))
time.sleep(10)
