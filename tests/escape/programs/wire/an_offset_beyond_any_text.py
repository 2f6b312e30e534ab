# language: python
# expect: protocol
# use: wire
# why: More than a JSON number holds.
say(frame({"op": "read", "id": 1, "doc": 0, "start": 0, "stop": 2**63, "line": 0}))
time.sleep(30)
