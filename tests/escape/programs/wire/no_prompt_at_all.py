# language: python
# expect: protocol
# use: wire
# why: An empty batch.
say(frame({"op": "query", "id": 1, "model": None, "lengths": []}))
time.sleep(30)
