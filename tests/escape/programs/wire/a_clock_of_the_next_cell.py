# language: python
# expect: protocol
# use: wire
# why: Nobody can read a clock for a program that has not been sent yet.
say(frame({"op": "clock", "cell": 2}, bytes(9)))
time.sleep(30)
