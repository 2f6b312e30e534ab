# language: python
# expect: protocol
# use: wire
# why: The header says more than the body holds.
say(frame({"op": "query", "id": 1, "model": None, "lengths": [2**53 - 1]}, b"xx"))
time.sleep(30)
