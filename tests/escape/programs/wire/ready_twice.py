# language: python
# expect: protocol
# use: wire
# why: One is ready once.
say(frame({"op": "ready", "protocol": 2, "python": "3"}))
time.sleep(30)
