# language: python
# expect: protocol ok
# use: wire
# why: A number beyond all floats.
say(frame({"op": "final", "cell": 1, "form": "json"}, b"1e999"))
time.sleep(30)
