# language: python
# expect: protocol
# use: wire
# why: Nobody can print for a program that has not been sent yet.
say(frame({"op": "output", "cell": 2, "stream": "stdout"}, b"early"))
time.sleep(30)
