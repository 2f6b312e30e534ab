# language: python
# expect: protocol
# use: wire
# why: Bytes that are no text.
say(frame({"op": "final", "form": "text"}, b"\xff"))
time.sleep(30)
