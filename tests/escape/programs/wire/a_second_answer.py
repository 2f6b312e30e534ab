# language: python
# expect: ok
# use: wire
# why: The first one counts.
# says: first
say(frame({"op": "final", "cell": 1, "form": "text"}, b"first"), frame({"op": "final", "cell": 1, "form": "text"}, b"second"))
time.sleep(30)
