# language: python
# expect: protocol
# use: wire
# why: Answers are the host's to give.
say(frame({"op": "answers", "id": 1, "items": []}))
time.sleep(30)
