# language: python
# expect: protocol
# use: wire
# why: A name has a limit of its own.
say(frame({"op": "query", "id": 1, "model": "m" * 257, "lengths": [1]}, b"x"))
time.sleep(30)
