# language: python
# expect: ok protocol
# use: wire
# why: The cell is over: there is no more to say in it.
say(frame(DONE), frame({"op": "final", "cell": 1, "form": "text"}, b"late"))
time.sleep(30)
