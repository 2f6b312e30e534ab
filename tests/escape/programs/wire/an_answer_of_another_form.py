# language: python
# expect: protocol
# use: wire
# why: Text or JSON.
say(frame({"op": "final", "form": "pickle"}, b"x"))
time.sleep(30)
