# language: python
# expect: protocol
# use: wire
# why: A sentence not yet invented.
say(frame({"op": "shell", "id": 1}))
time.sleep(30)
