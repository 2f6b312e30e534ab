# language: python
# expect: protocol
# use: wire
# why: JSON has no NaN.
say(frame({"op": "final", "cell": 1, "form": "json"}, b"NaN"))
time.sleep(30)
