# language: python
# expect: protocol ok
# use: wire
# why: A lone surrogate in a JSON string.
say(frame({"op": "final", "cell": 1, "form": "json"}, b'"\\ud800"'))
time.sleep(30)
