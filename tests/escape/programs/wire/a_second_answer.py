# language: python
# expect: ok
# use: wire
# why: The first one counts.
# says: first
say(frame({"op": "final", "form": "text"}, b"first"), frame({"op": "final", "form": "text"}, b"second"))
time.sleep(30)
