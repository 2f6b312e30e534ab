# language: python
# expect: protocol
# use: wire
# why: Two prompts share a character.
say(frame({"op": "query", "id": 1, "model": None, "lengths": [1, 1]}, "é".encode()))
time.sleep(30)
