# language: python
# expect: protocol
# use: wire
# why: A cell that has not begun cannot be over.
say(frame({**DONE, "cell": 2}))
time.sleep(30)
