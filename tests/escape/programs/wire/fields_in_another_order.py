# language: python
# expect: protocol
# use: wire
# why: One sentence has one spelling.
say(frame({"id": 1, "op": "budget"}))
time.sleep(30)
