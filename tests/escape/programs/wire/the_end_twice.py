# language: python
# expect: ok protocol
# use: wire
# why: A cell ends once.
say(frame(DONE), frame(DONE))
time.sleep(30)
