# language: python
# expect: protocol
# use: wire
# why: The body holds more than the header says.
say(frame({"op": "query", "id": 1, "model": None, "lengths": [1]}, b"xx"))
time.sleep(30)
