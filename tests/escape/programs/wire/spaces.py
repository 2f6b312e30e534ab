# language: python
# expect: protocol
# use: wire
# why: One sentence has one spelling.
say(frame(b'{"op": "budget", "id": 1}'))
time.sleep(30)
