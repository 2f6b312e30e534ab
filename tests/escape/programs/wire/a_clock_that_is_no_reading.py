# language: python
# expect: protocol
# use: wire
# why: A replay would have to make something of it.
say(frame({"op": "clock", "cell": 1}, b"noon"))
time.sleep(30)
