# language: python
# expect: protocol
# use: wire
# why: Two readers would see two values.
say(frame({"op": "final", "cell": 1, "form": "json"}, b'{"a":1,"a":2}'))
time.sleep(30)
