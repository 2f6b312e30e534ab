# language: python
# expect: protocol
# use: wire
# why: Text that is no value.
say(frame({"op": "final", "cell": 1, "form": "json"}, b"{"))
time.sleep(30)
