# language: python
# expect: protocol
# use: wire
# why: Two streams.
say(frame({"op": "output", "cell": 1, "stream": "stdin"}, b"x"))
time.sleep(30)
