# language: python
# expect: protocol
# use: wire
# why: Bytes that are no text.
say(frame({"op": "final", "cell": 1, "form": "text"}, b"\xff"))
time.sleep(30)
