# language: python
# expect: protocol
# use: wire
# why: A box that broke the rules gives no answer.
say(b"\0" * 8, frame({"op": "final", "cell": 1, "form": "text"}, b"second"))
time.sleep(30)
