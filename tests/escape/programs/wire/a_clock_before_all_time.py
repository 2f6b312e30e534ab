# language: python
# expect: protocol
# use: wire
# why: A clock with which a replay could not count on.
say(frame({"op": "clock", "cell": 1}, b"\0" + b"\xff" * 8))
time.sleep(30)
