# language: python
# expect: protocol
# use: wire
# why: A header that is text.
say(frame(b"hello"))
time.sleep(30)
