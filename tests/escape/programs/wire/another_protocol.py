# language: python
# expect: protocol
# use: wire
# why: One is ready once, and in one protocol.
say(frame({"op": "ready", "protocol": 3, "python": "3"}))
time.sleep(30)
