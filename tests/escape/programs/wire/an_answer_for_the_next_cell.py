# language: python
# expect: protocol
# use: wire
# why: It would be the answer of a program that has not been sent yet.
say(frame({"op": "final", "cell": 2, "form": "text"}, b"of the next one"))
time.sleep(30)
