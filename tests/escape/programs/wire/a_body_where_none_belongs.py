# language: python
# expect: protocol
# use: wire
# why: A question has no body.
say(frame({"op": "budget", "id": 1}, b"x"))
time.sleep(30)
