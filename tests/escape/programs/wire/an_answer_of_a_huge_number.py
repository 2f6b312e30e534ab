# language: python
# expect: protocol ok
# use: wire
# why: A number of five thousand digits.
say(frame({"op": "final", "form": "json"}, b"1" * 5000))
time.sleep(30)
