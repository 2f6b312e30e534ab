# language: python
# expect: protocol ok
# use: wire
# why: A lone surrogate in a JSON string.
say(frame({"op": "final", "form": "json"}, b'"\\ud800"'))
time.sleep(30)
