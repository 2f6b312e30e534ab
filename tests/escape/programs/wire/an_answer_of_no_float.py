# language: python
# expect: protocol
# use: wire
# why: Readers of a result refuse all of it, or take infinity, for a number that no float holds.
say(frame({"op": "final", "cell": 1, "form": "json"}, b"[1e400]"))
time.sleep(30)
