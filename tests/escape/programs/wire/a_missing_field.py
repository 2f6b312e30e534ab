# language: python
# expect: protocol
# use: wire
# why: A read without an end.
say(frame({"op": "read", "id": 1, "doc": 0, "start": 0}))
time.sleep(30)
