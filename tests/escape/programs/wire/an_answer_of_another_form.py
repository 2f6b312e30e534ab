# language: python
# expect: protocol
# use: wire
# why: Text or JSON.
say(frame({"op": "final", "cell": 1, "form": "pickle"}, b"x"))
time.sleep(30)
