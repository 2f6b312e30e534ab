# language: python
# expect: protocol
# use: wire
# why: Two lengths that add up.
say(frame({"op": "query", "id": 1, "model": None, "lengths": [-1, 3]}, b"xx"))
time.sleep(30)
