# language: python
# expect: protocol
# use: wire
# why: Fields that nobody reviewed.
say(frame({"op": "budget", "id": 1, "tenant": "rival"}))
time.sleep(30)
