# language: python
# expect: protocol
# use: wire
# why: A header that is no object.
say(frame(b"[1]"))
time.sleep(30)
